"""This node's own disk, on a real machine."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from k8r_agent.effects import former, table, twins, wholedisk
from k8r_agent.effects.bootfacts import FACTS, UDEV, Kernel, read_facts
from k8r_agent.effects.device import open_device
from k8r_agent.effects.mkfs import Filesystems
from k8r_agent.errors import DiskAmbiguous, DiskError, Protected
from k8r_agent.model import superblock
from k8r_agent.model.boot import BootFacts
from k8r_agent.model.layout import IMAGE, STATE, WORKING, Disk, Partition
from k8r_agent.model.slots import Slot
from k8r_agent.ports.blockdev import BlockDevice
from k8r_agent.ports.commands import Commands

NUMBERS = {Slot.IMAGE: IMAGE, Slot.WORKING: WORKING}
_UDEV_SOCKET = Path("/run/udev/control")


class NodeDisks:
    """The port Disks. `primary` (the boot backend's) is asked before every write: a slot that boots by default is
    never a target. The other options are for tests."""

    def __init__(self, commands: Commands, *, primary: Callable[[], Slot] | None = None,
                 kernel: Kernel | None = None, facts: Path = FACTS, udev: Path = UDEV,
                 virtual: bool = False) -> None:
        self._commands, self._primary = commands, primary
        self._kernel, self._facts, self._udev, self._virtual = kernel or Kernel(), facts, udev, virtual
        self._filesystems = Filesystems(commands)

    def facts(self) -> BootFacts:
        return read_facts(self._kernel, self._facts)

    def own(self) -> Disk:
        name = self.facts().disk
        path, sector = self._kernel.device(name), self._kernel.sector(name)
        with wholedisk.open_disk(path) as raw:
            found, size = table.read_table(raw, sector=sector), raw.size
        used = {p.number: p for p in self._kernel.partitions(name)}
        partitions, stale = [], ""
        for p in found.partitions:
            kernels = used.get(p.number)
            if kernels is None or kernels.start != p.start:
                stale = stale or f"kernel: does not use partition {p.number} of the table yet"
                partitions.append(p)
                continue
            if kernels.size != p.size:
                stale = stale or f"kernel: partition {p.number} has {kernels.size} bytes, {p.size} in the table"
            partitions.append(replace(p, device=self._kernel.device(kernels.name)))
        return Disk(device=path, size=size, sector=sector, table=found.kind, id=found.id,
                    partitions=tuple(partitions), fault=found.fault or stale)

    def assert_writable(self) -> None:
        own, duplicate = self.own(), self.facts().duplicate
        why = f"at boot, {duplicate} carried the same IDs" if duplicate else ""
        if not duplicate and (twin := twins.find_twin(self._kernel, own, udev=self._udev, virtual=self._virtual)):
            duplicate, why = str(self._kernel.device(twin[0])), f"both carry {twin[1]}"
        if duplicate:
            raise DiskAmbiguous(f"{own.device} and {duplicate} are copies of each other", why=why,
                                hint=f"nothing is written while both are there: unplug one (if it is {duplicate}, "
                                     "then reboot), or give the copy new IDs (sgdisk -G, sfdisk --disk-id)")

    @contextlib.contextmanager
    def open(self, partition: Partition, *, write: bool = False) -> Iterator[BlockDevice]:
        mine = self._mine(partition, for_writing=write)
        assert mine.device is not None
        with open_device(mine.device, write=write) as device:
            yield device

    def write_table(self, disk: Disk, wanted: tuple[Partition, ...], *, new_id: str) -> Disk:
        self.assert_writable()
        own = self.own()
        if own.device != disk.device:
            raise Protected(f"{disk.device} is not this node's disk", why=f"it was booted from {own.device}")
        with wholedisk.open_disk(own.device, write=True) as raw:
            table.write_table(raw, wanted, new_id=new_id, sector=own.sector)
            wholedisk.tell_kernel(raw, self._kernel.partitions(self.facts().disk), wanted)
        self._settle()
        after = self.own()
        if after.fault:
            raise DiskError(f"the table of {after.device} is written but not in use", why=after.fault, hint="reboot")
        return after

    def former_state(self, disk: Disk, *, known: tuple[int, int] | None) -> Partition | None:
        with wholedisk.open_disk(disk.device) as raw:
            return former.find(raw, disk, known=known)

    def signature(self, partition: Partition) -> str:
        return self._filesystems.signature(self._readable(partition))

    def filesystem_uuid(self, partition: Partition) -> str:
        found, device = self._superblock(partition), self._readable(partition)
        if found is None and (uuid := self._filesystems.uuid(device)):
            return uuid
        found = found or self._filesystems.copy(device)
        return found.uuid if found else ""

    def make_filesystem(self, partition: Partition, *, label: str, uuid: str) -> None:
        """A file system that an interrupted call of this kind left (same UUID, never mounted) is completed or made
        anew; anything else that has a signature is refused."""
        self.assert_writable()
        device = self._readable(partition)
        if partition.number != STATE or device.name == self.facts().rootpart:
            raise Protected(f"{device} is never formatted", why="only the state partition is made by mkfs")
        present = self._filesystems.signature(device)
        found = self._superblock(partition) or self._filesystems.copy(device)
        unfinished = found is not None and found.uuid == uuid and found.never_used
        if present and not unfinished:
            raise Protected(f"{device} is not empty", why=f"it carries {present}",
                            hint=f"if nothing on it is needed: `mkfs.ext4 -U {uuid} -L {label} {device}`, then "
                                 "try again")
        if unfinished and present and found and found.label == label and self._filesystems.clean(device):
            self._filesystems.flush(device)  # an agent killed after mkfs may have left it in the cache
            return
        self._filesystems.make(device, label=label, uuid=uuid, over=unfinished)

    def grow_root(self) -> None:
        facts = self.facts()
        root, number = self._kernel.mounted_at("/"), self._kernel.number_of(facts.rootpart)
        if facts.slot is not Slot.WORKING or root is None or root.device != number or "ro" in root.options:
            raise Protected("only the running working slot is grown, while it is mounted",
                            why=f"running: {facts.slot}, / is device {root.device if root else 'none'}")
        self._filesystems.grow_online(self._kernel.device(facts.rootpart), Path("/"))

    def _mine(self, partition: Partition, *, for_writing: bool = False) -> Partition:
        """The same partition as it is now on the node's own disk, with its device."""
        own = self.own()
        mine = own.partition(partition.number)
        if mine is None or mine.device is None or mine.start != partition.start or (
                partition.device is not None and mine.device != partition.device):
            raise Protected(f"partition {partition.number} ({partition.device}) is not on this node's disk as given",
                            why=own.fault or f"{own.device} was booted from", hint="look at `sfdisk -l`")
        if for_writing:
            self._assert_target(mine)
        return mine

    def _assert_target(self, mine: Partition) -> None:
        self.assert_writable()
        facts = self.facts()
        slot = next((s for s, n in NUMBERS.items() if n == mine.number), None)
        why = ""
        if slot is None:
            why = "only the image and the working slot are written as a whole"
        elif mine.device == self._kernel.device(facts.rootpart) or slot is facts.slot:
            why = f"the running system is on it ({slot})"
        elif self._primary is not None and self._primary() is slot:
            why = f"{slot} is the slot that boots by default"
        if why:
            raise Protected(f"{mine.device} is not written", why=why)

    def _readable(self, partition: Partition) -> Path:
        """Its device, after a real read: libblkid calls an unreadable device empty."""
        mine = self._mine(partition)
        assert mine.device is not None
        with wholedisk.open_disk(mine.device) as raw:
            raw.read(0, min(raw.size, 1 << 20))
        return mine.device

    def _superblock(self, partition: Partition) -> superblock.Superblock | None:
        with wholedisk.open_disk(self._readable(partition)) as raw:
            if raw.size < superblock.OFFSET + superblock.LENGTH:
                return None
            return superblock.parse(raw.read(superblock.OFFSET, superblock.LENGTH))

    def _settle(self) -> None:
        """Wait for the new by-partuuid links: udev looks again when a disk that was open for writing is closed."""
        if _UDEV_SOCKET.exists():
            self._commands.run(["udevadm", "settle", "--timeout=30"], ok=range(256), timeout=40)
