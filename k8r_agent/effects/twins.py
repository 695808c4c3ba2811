"""Another disk with this disk's IDs: then nothing may be written, because nobody can say which one boots next."""

from __future__ import annotations

import contextlib
import importlib
from pathlib import Path
from typing import Any

from k8r_agent.effects.bootfacts import UDEV, Kernel
from k8r_agent.effects.table import read_table
from k8r_agent.effects.wholedisk import open_disk
from k8r_agent.errors import DiskError
from k8r_agent.model.layout import Disk


def find_twin(kernel: Kernel, own: Disk, *, udev: Path = UDEV, virtual: bool = False) -> tuple[str, str] | None:
    """(name of another disk, the ID that it shares with `own`), None when there is no such disk.

    udev's database is asked first, so that sleeping disks sleep on; a disk that it does not know is read. `virtual`:
    look at loop and device-mapper disks too. The empty ID (a DOS disk that was never given one) is nobody's twin.
    """
    name = own.device.name
    mine = {i.lower() for i in (own.id, *(p.uuid for p in own.partitions)) if i and i != "0x00000000"}
    if own.id == "0x00000000":
        mine = set()
    known = _udev_ids() if udev.is_dir() and any(udev.iterdir()) else {}
    for other in kernel.disks(virtual=virtual):
        if kernel.device(other) == own.device or other == name:
            continue
        shared = mine & (known.get(other) or _read_ids(kernel, other))
        if shared:
            return other, min(shared)
    return None


def _udev_ids() -> dict[str, frozenset[str]]:
    """Disk name → disk GUID and PARTUUIDs, from udev's properties. Disks that udev has not probed are left out."""
    try:
        pyudev: Any = importlib.import_module("pyudev")
    except ImportError:
        return {}
    found: dict[str, set[str]] = {}
    for device in pyudev.Context().list_devices(subsystem="block"):
        part = device.device_type == "partition"
        value = device.properties.get("ID_PART_ENTRY_UUID" if part else "ID_PART_TABLE_UUID")
        disk = device.find_parent("block", "disk") if part else device
        if not value or disk is None:
            continue
        if not part and device.properties.get("ID_PART_TABLE_TYPE") == "dos":
            value = f"0x{value}"  # udev drops what sfdisk prints
        found.setdefault(disk.sys_name, set()).add(value.lower())
    return {name: frozenset(ids) for name, ids in found.items()}


def _read_ids(kernel: Kernel, name: str) -> frozenset[str]:
    """From the table on the medium; nothing for a disk without one, or one that cannot be read."""
    with contextlib.suppress(DiskError, OSError), open_disk(kernel.device(name)) as disk:
        found = read_table(disk, sector=kernel.sector(name))
        return frozenset(i.lower() for i in (found.id, *(p.uuid for p in found.partitions)) if i)
    return frozenset()
