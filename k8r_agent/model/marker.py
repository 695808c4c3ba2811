"""The marker k8r/state on the boot partition: this disk's state partition was initialised. Pure.

The initramfs reads it with shell tools: `key=value` lines, padded with newlines to one sector.
"""

from __future__ import annotations

import uuid as uuids
from dataclasses import dataclass

PATH = "k8r/state"
LENGTH = 512
_LIFE = uuids.UUID("6f1d7a43-3c50-4f0e-9d43-1b8f6f0a7f52")


@dataclass(frozen=True, kw_only=True)
class Marker:
    """`uuid` of the state file system ("" when the marker is there but cannot be read), `time` in seconds since the
    epoch (also the floor of a clock without battery), `disk` the disk's GUID."""

    uuid: str
    time: int = 0
    disk: str = ""


def build(marker: Marker) -> bytes:
    text = f"uuid={marker.uuid}\ntime={marker.time}\ndisk={marker.disk}\n"
    return text.encode("ascii").ljust(LENGTH, b"\n")


def parse(data: bytes) -> Marker:
    """Never fails: a marker that is there, however damaged, means that the partition must not be formatted."""
    pairs = (line.split("=", 1) for line in data.decode("ascii", "replace").splitlines() if "=" in line)
    values = {key.strip(): value.strip() for key, value in pairs}
    try:
        uuid = str(uuids.UUID(values.get("uuid", "")))
    except ValueError:
        uuid = ""
    time = values.get("time", "")
    return Marker(uuid=uuid, time=int(time) if time.isdecimal() and len(time) < 20 else 0, disk=values.get("disk", ""))


def uuid_of_life(disk: str, partition: str) -> str:
    """UUID of the state file system that belongs to this life of a disk, from the table's IDs.

    The first boot's table write makes those anew, so a file system with this UUID can only have been made afterwards,
    by this agent: after a power cut between mkfs and marker it is recognised without having been remembered anywhere.
    """
    return str(uuids.uuid5(_LIFE, f"{disk.lower()}/{partition.lower()}"))
