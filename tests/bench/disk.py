"""A node's disk on a loop device: four partitions, the working slot running. In the place of the mounted boot and
state partitions stand plain directories: a kernel need not know FAT for this."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from k8r_agent.boot import loaderfiles
from k8r_agent.boot.grub import Grub
from k8r_agent.effects.bootfiles import MountedBootFiles
from k8r_agent.effects.commands import commands
from k8r_agent.effects.disks import NodeDisks
from k8r_agent.model.partitioning import plan
from k8r_agent.model.slots import Slot
from tests.contract.test_disk_disks import Loop
from tests.fakes.bundles import make_assets
from tests.fakes.flashed import MIB, flashed_gpt

BOOT_SIZE, STATE_SIZE = 512 * MIB, 64 * MIB


@dataclass(frozen=True)
class NodeDisk:
    """`facts` as the initramfs writes them; `boot` and `state` are directories that stand for partitions."""

    loop: Loop
    facts: Path
    boot: Path
    state: Path

    def runs(self, slot: Slot) -> None:
        """As after a reboot into it, and it is the primary."""
        self.loop.facts(self.facts, slot, loader="grub", state="mounted")
        Grub(MountedBootFiles(self.boot, remount=False, lock=self.facts.with_name("lock")),
             current=slot).set_primary(slot)


@contextmanager
def node_disk(directory: Path, *, image: int) -> Iterator[NodeDisk]:
    """`image` is the size of both slots in bytes; everything is sparse."""
    directory.mkdir()
    medium = flashed_gpt(BOOT_SIZE + 2 * image + STATE_SIZE + 16 * MIB, boot=BOOT_SIZE, image=8 * MIB)
    loop = Loop(medium, directory / "disk")
    node = NodeDisk(loop, directory / "facts", directory / "firmware", directory / "state")
    node.boot.mkdir()
    node.state.mkdir()
    try:
        loop.facts(node.facts, Slot.IMAGE)
        disks = NodeDisks(commands(), facts=node.facts, udev=directory / "no-udev", virtual=True)
        layout = plan(disks.own(), image_size=image, state_size=STATE_SIZE, role="worker",
                      new_id=lambda: str(uuid.uuid4()))
        assert layout is not None
        disks.write_table(disks.own(), layout.partitions, new_id=layout.id)
        _install_loader(node)
        yield node
    finally:
        loop.close()


def _install_loader(node: NodeDisk) -> None:
    files = MountedBootFiles(node.boot, remount=False, lock=node.facts.with_name("lock"))
    with files.writable():
        for path, data in loaderfiles.initial_files("grub", make_assets(9), efi=b"GRUB").items():
            files.put(path, data)
    node.loop.facts(node.facts, Slot.IMAGE, loader="grub")
    Grub(files, current=Slot.IMAGE).install_assets(Slot.WORKING, make_assets(9))
    node.runs(Slot.WORKING)
