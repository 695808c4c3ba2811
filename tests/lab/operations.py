"""Every boot operation once, each between two marks that a record of the disk shows. Runs in the guest, to which
record.py sends it: the product's own backend on the guest's own vfat. It knows nothing but the product.
"""

from __future__ import annotations

import itertools
import mmap
import os
from collections.abc import Callable
from typing import cast

from k8r_agent.boot import sdfiles
from k8r_agent.boot.grub import Grub
from k8r_agent.boot.programs import PROGRAMS
from k8r_agent.boot.systemd_boot import SystemdBoot
from k8r_agent.config import load
from k8r_agent.errors import BootError
from k8r_agent.model.boot import BootAssets
from k8r_agent.model.slots import Slot
from k8r_agent.ports.bootfiles import BootFiles
from k8r_agent.steps.enter_cluster import CONFIGURATION
from k8r_agent.world import real

MARK_AT = 512 << 10  # bytes; between the table's 33 sectors and partition 1, at 1 MiB
MARK = b"k8r-mark:"
REMARK = b"# a remark\n"


def assets(boot: Grub | SystemdBoot, slot: Slot) -> BootAssets:
    found = boot.assets(slot)
    if found is None:
        raise BootError(f"the {slot} slot has no boot assets")
    return found


def spend(boot: Grub | SystemdBoot, files: BootFiles) -> None:
    """As boots that nobody confirmed would: one try is left."""
    if isinstance(boot, Grub):
        boot._change(tries=1)
        return
    entry = boot._entry(Slot.WORKING)
    assert entry is not None and entry.left is not None
    used = sdfiles.EntryName(slot=Slot.WORKING, left=1, done=entry.done + entry.left - 1)
    with files.writable():
        files.rename(f"{sdfiles.ENTRIES}/{entry}", f"{sdfiles.ENTRIES}/{used}")


def spoil(boot: Grub | SystemdBoot, files: BootFiles) -> None:
    """Other programs than were installed, with which the node boots all the same: nothing reads behind their end."""
    for path in PROGRAMS[boot.name]:
        with files.writable():
            files.put_pieces(path, itertools.chain(files.pieces(path), [bytes(512)]))


def mend(boot: Grub | SystemdBoot) -> None:
    if set(boot.mend_loader()) != set(PROGRAMS[boot.name]):
        raise BootError("the loader's programs were not all mended")


def note(files: BootFiles, *, remark: bool) -> None:
    """The configuration anew, as `blank-secret` writes it."""
    data = (files.read(CONFIGURATION) or b"").removesuffix(REMARK)
    with files.writable():
        files.put(CONFIGURATION, data + REMARK if remark else data)


def operations(boot: Grub | SystemdBoot, files: BootFiles) -> dict[str, Callable[[], None]]:
    return {
        "arm image": lambda: boot.try_once(Slot.IMAGE),
        "disarm": boot.disarm,
        "primary image": lambda: boot.set_primary(Slot.IMAGE),
        "primary working": lambda: boot.set_primary(Slot.WORKING),
        "assets image": lambda: boot.install_assets(Slot.IMAGE, assets(boot, Slot.IMAGE)),
        "assets working": lambda: boot.install_assets(Slot.WORKING, assets(boot, Slot.WORKING)),
        "spend tries": lambda: spend(boot, files),
        "refill tries": boot.refill_tries,
        "spend tries again": lambda: spend(boot, files),
        "refill tries again": boot.refill_tries,
        "withdraw image": lambda: boot.offer_image(False),
        "offer image": lambda: boot.offer_image(True),
        "spoil loader": lambda: spoil(boot, files),
        "mend loader": lambda: mend(boot),
        "remark in k8r.toml": lambda: note(files, remark=True),
        "no remark in k8r.toml": lambda: note(files, remark=False),
    }


def main() -> None:
    world = real(load())
    world.boot.state()  # what is lazy is made now
    boot = cast("Grub | SystemdBoot", world.boot.__dict__["_lazy_made"])
    disk = os.open(world.disks.own().device, os.O_WRONLY | os.O_DIRECT | os.O_SYNC)
    page = mmap.mmap(-1, 4096)

    def mark(text: str) -> None:
        page[:512] = (MARK + text.encode()).ljust(512, b" ")
        os.pwrite(disk, memoryview(page)[:512], MARK_AT)

    assert world.boot_files is not None
    for name, operation in operations(boot, world.boot_files).items():
        os.sync()
        mark(f"begin {name}")
        operation()  # when it returns, its effect must be durable: nothing is flushed before the mark that follows
        mark(f"end {name}")


if __name__ == "__main__":
    main()
