"""The port Disks over a Medium: a disk with a real partition table, windows for partitions, and power cuts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from k8r_agent.effects import former, table
from k8r_agent.errors import DiskAmbiguous, DiskError, Protected, SlotBusy
from k8r_agent.model import superblock
from k8r_agent.model.boot import BootFacts
from k8r_agent.model.layout import BOOT, IMAGE, STATE, WORKING, Disk, Partition
from k8r_agent.model.slots import Slot
from k8r_agent.ports.blockdev import BlockDevice
from tests.fakes import ext4
from tests.fakes.flashed import MIB, flashed_gpt
from tests.fakes.medium import Medium, nowhere

NUMBERS = {Slot.IMAGE: IMAGE, Slot.WORKING: WORKING}


class Window:
    """One partition as a BlockDevice. Points: `disk:p<n>:write` before each write, `:flush` and `:flushed`."""

    def __init__(self, disks: FakeDisks, number: int, start: int, size: int, *, write: bool) -> None:
        self._disks, self._number, self._start, self._size, self._write = disks, number, start, size, write

    @property
    def size(self) -> int:
        return self._size

    def read(self, offset: int, length: int) -> bytes:
        self._within(offset, length)
        return self._disks.medium.read(self._start + offset, length)

    def write(self, offset: int, data: bytes) -> None:
        if not self._write:
            raise DiskError("not opened for writing")
        self._within(offset, len(data))
        self._disks.point(f"disk:p{self._number}:write")
        self._disks.put(self._start + offset, data)

    def flush(self) -> None:
        self._disks.point(f"disk:p{self._number}:flush")
        self._disks.medium.flush()
        self._disks.point(f"disk:p{self._number}:flushed")

    def drop_cache(self) -> None:
        self._disks.medium.drop_cache()

    def _within(self, offset: int, length: int) -> None:
        if offset < 0 or offset + length > self._size:
            raise DiskError("beyond the partition", why=f"{length} bytes at {offset} of {self._size}")


class FakeDisks:
    """`boot(slot)` is what the kernel and the initramfs do with what is on the medium; `power_cut()` comes before.

    The kernel's idea of the partitions is kept apart from the table, as in life. `twin` names another disk that
    carries the same IDs. `primary` is the boot backend's, as for the real one.
    """

    def __init__(self, medium: Medium | None = None, *, slot: Slot = Slot.IMAGE, name: str = "vda",
                 point: Callable[[str], None] = nowhere, primary: Callable[[], Slot] | None = None) -> None:
        self.medium = medium or flashed_gpt(64 * MIB)
        self.point, self.name, self.primary, self.twin = point, name, primary, ""
        self.kernel: dict[int, tuple[int, int]] = {}
        self.mounted: set[int] = set()
        self.slot, self.state = slot, "absent"
        self.boot(slot)

    def boot(self, slot: Slot) -> None:
        """Raises DiskError when the disk has no table; the kernel would find no root."""
        found = table.read_table(self.medium, sector=self.medium.sector)
        self.kernel = {p.number: (p.start, p.size) for p in found.partitions}
        if NUMBERS[slot] not in self.kernel:
            raise DiskError(f"there is no partition for slot {slot}")
        self.slot, self.state = slot, "absent"
        self.mounted = {BOOT, NUMBERS[slot]}
        if slot is Slot.WORKING:
            self._mount_writes(WORKING)

    def power_cut(self, reached: Callable[[int], bool] = lambda sector: False) -> None:
        self.medium.power_cut(reached)

    # the port
    def facts(self) -> BootFacts:
        def name(number: int) -> str:
            return self._node(number).name
        return BootFacts(slot=self.slot, disk=self.name, bootpart=name(BOOT), rootpart=name(NUMBERS[self.slot]),
                         statepart=name(STATE) if STATE in self.kernel else None, state=self.state,
                         duplicate=None, loader="systemd-boot", watchdog=None)

    def own(self) -> Disk:
        found = table.read_table(self.medium, sector=self.medium.sector)
        partitions, stale = [], ""
        for p in found.partitions:
            start, size = self.kernel.get(p.number, (-1, -1))
            if (start, size) != (p.start, p.size):
                stale = f"kernel: partition {p.number} is not in use as in the table"
            partitions.append(replace(p, device=self._node(p.number)) if start == p.start else p)
        return Disk(device=Path("/dev") / self.name, size=self.medium.size, sector=self.medium.sector,
                    table=found.kind, id=found.id, partitions=tuple(partitions), fault=found.fault or stale)

    def assert_writable(self) -> None:
        if self.twin:
            raise DiskAmbiguous(f"/dev/{self.name} and {self.twin} are copies of each other", hint="unplug one")

    @contextlib.contextmanager
    def open(self, partition: Partition, *, write: bool = False) -> Iterator[BlockDevice]:
        mine = self._mine(partition)
        if write:
            self.assert_writable()
            slot = next((s for s, n in NUMBERS.items() if n == mine.number), None)
            if slot is None or slot is self.slot or (self.primary and self.primary() is slot):
                raise Protected(f"{mine.device} is not written", why=f"slot {slot}, running {self.slot}")
            if mine.number in self.mounted:
                raise SlotBusy(f"{mine.device} is in use", why="mounted")
        start, size = self.kernel[mine.number]
        window = Window(self, mine.number, start, size, write=write)
        yield window
        if write:
            window.flush()

    def write_table(self, disk: Disk, wanted: tuple[Partition, ...], *, new_id: str) -> Disk:
        self.assert_writable()
        table.write_table(self.medium, wanted, new_id=new_id, sector=self.medium.sector, point=self.point)
        self.point("table:kernel")
        self.kernel = {p.number: (p.start, p.size) for p in wanted}
        self.point("table:done")
        return self.own()

    def former_state(self, disk: Disk, *, known: tuple[int, int] | None) -> Partition | None:
        return former.find(self.medium, disk, known=known)

    def signature(self, partition: Partition) -> str:
        mine = self._mine(partition)
        raw = self.superblock(mine.number)
        found = superblock.parse(raw)
        if found is None:
            return ""
        return f"{'ext4' if ext4.intact(raw) else 'damaged ext4'} {found.label}".strip()

    def filesystem_uuid(self, partition: Partition) -> str:
        found = superblock.parse(self.superblock(self._mine(partition).number))
        return found.uuid if found else ""

    def make_filesystem(self, partition: Partition, *, label: str, uuid: str) -> None:
        self.assert_writable()
        mine = self._mine(partition)
        found, present = superblock.parse(self.superblock(mine.number)), self.signature(mine)
        unfinished = found is not None and found.uuid == uuid and found.never_used
        if mine.number != STATE or (present and not unfinished) or mine.number in self.mounted:
            raise Protected(f"{mine.device} is not empty", why=f"it carries {present}")
        if unfinished and present and self.whole(mine.number) and not present.startswith("damaged"):
            self.medium.flush()
            return
        start, size = self.kernel[mine.number]
        self.point("mkfs:before")
        self.mkfs_runs = getattr(self, "mkfs_runs", 0) + 1
        self.put(start + superblock.OFFSET, ext4.superblock(uuid=uuid, label=label, size=size))
        self.put(start + ext4.TABLES, _tables(uuid, self.mkfs_runs))
        self.point("mkfs:written")
        self.medium.flush()
        self.point("mkfs:after")

    def grow_root(self) -> None:
        if self.slot is not Slot.WORKING:
            raise Protected("only the running working slot is grown")
        start, size = self.kernel[WORKING]
        self.point("grow:before")
        self.put(start + superblock.OFFSET, ext4.changed(self.superblock(WORKING), size=size))
        self.point("grow:written")
        self.medium.flush()
        self.point("grow:after")

    # for other fakes and for tests
    def superblock(self, number: int) -> bytes:
        return self.medium.read(self.kernel[number][0] + superblock.OFFSET, superblock.LENGTH)

    def whole(self, number: int) -> bool:
        """What e2fsck would say: superblock and tables belong together."""
        raw, start = self.superblock(number), self.kernel[number][0]
        found = superblock.parse(raw)
        return found is not None and ext4.intact(raw) and self.medium.read(
            start + ext4.TABLES, 64).startswith(f"tables of {found.uuid}".encode())

    def life(self, number: int) -> bytes:
        """Changes with every mkfs: what was on the file system before is gone."""
        return self.medium.read(self.kernel[number][0] + ext4.TABLES, 64)

    def mount(self, number: int) -> None:
        self._mount_writes(number)
        self.mounted.add(number)

    def put(self, offset: int, data: bytes) -> None:
        """Write any bytes: partial sectors are read, changed and written."""
        sector = self.medium.sector
        first = offset // sector * sector
        end = -(-(offset + len(data)) // sector) * sector
        whole = bytearray(self.medium.read(first, end - first))
        whole[offset - first:offset - first + len(data)] = data
        self.medium.write(first, bytes(whole))

    def _mount_writes(self, number: int) -> None:
        raw, found = self.superblock(number), superblock.parse(self.superblock(number))
        if found is None:
            raise DiskError(f"cannot mount partition {number}", why="no file system")
        self.put(self.kernel[number][0] + superblock.OFFSET,
                 ext4.changed(raw, mounted=found.mounted + 1, last_mount=1_800_000_000))
        self.medium.flush()

    def _node(self, number: int) -> Path:
        glue = "p" if self.name[-1].isdigit() else ""
        return Path("/dev") / f"{self.name}{glue}{number}"

    def _mine(self, partition: Partition) -> Partition:
        mine = self.own().partition(partition.number)
        if mine is None or mine.device is None or mine.start != partition.start:
            raise Protected(f"partition {partition.number} is not on this node's disk as given")
        return mine


def _tables(uuid: str, run: int) -> bytes:
    return f"tables of {uuid} {run}".encode().ljust(64, b"\0")
