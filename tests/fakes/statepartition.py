"""The state partition of a FakeDisks: the real decisions (NodeStatePartition) over fake mounts and fake files."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

from k8r_agent.effects.statepartition import NodeStatePartition
from k8r_agent.errors import NoState, StateError
from k8r_agent.model.boot import Content
from k8r_agent.model.layout import STATE, Partition
from k8r_agent.model.slots import Slot
from k8r_agent.ports.bootfiles import BootFiles
from tests.fakes.disks import FakeDisks
from tests.fakes.medium import nowhere
from tests.fakes.statefiles import FakeStateFiles


class FakeMounts:
    """`files` is what the agent uses all the time; mounting swaps what is behind it. Content belongs to one life of
    the file system: it is gone when mkfs ran again."""

    def __init__(self, disks: FakeDisks, files: FakeStateFiles) -> None:
        self.disks, self.files, self.damaged = disks, files, False
        self.contents: dict[bytes, dict[str, bytes]] = {}
        self.ram = FakeStateFiles(on_partition=False)
        self.ram.live, self.ram.medium = files.live, files.medium
        self.staged: FakeStateFiles | None = None
        files.on_partition = False

    def visible(self) -> bool:
        return self.files.on_partition

    def stage(self, partition: Partition) -> FakeStateFiles:
        if self.staged is None:
            if self.damaged or not self.disks.whole(partition.number):
                raise StateError("the state partition is damaged", why="e2fsck -p: unexpected inconsistency")
            self.disks.point("mount:before")
            self.disks.mount(partition.number)
            self.staged = FakeStateFiles(point=self.disks.point)
            self.staged.medium = self.contents.setdefault(self.disks.life(partition.number), {})
            self.staged.live = dict(self.staged.medium)
            self.disks.point("mount:staged")
        return self.staged

    def unstage(self) -> None:
        self.staged = None
        if not self.visible():
            self.disks.mounted.discard(STATE)

    def publish(self, partition: Partition) -> None:
        assert self.staged is not None
        self.disks.point("mount:publish")
        self.files.live, self.files.medium = self.staged.live, self.staged.medium
        self.files.on_partition = True
        self.disks.state = "mounted"
        self.disks.point("mount:published")

    def volatile(self) -> FakeStateFiles:
        return self.ram

    def lose_ram(self) -> None:
        """A reboot: nothing is mounted, RAM is empty."""
        self.staged = None
        self.files.live, self.files.medium, self.files.on_partition = {}, {}, False
        self.ram.live, self.ram.medium = self.files.live, self.files.medium


class MemoryBootFiles:
    """The few calls of BootFiles that the marker needs. tests/fakes/bootfiles.py is the whole port."""

    def __init__(self, point: Callable[[str], None] = nowhere) -> None:
        self.point, self.files, self.open = point, {}, 0  # type: Callable[[str], None], dict[str, bytes], int

    @contextlib.contextmanager
    def writable(self) -> Iterator[None]:
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1

    def read(self, path: str) -> bytes | None:
        return self.files.get(path)

    def pieces(self, path: str) -> Iterator[bytes]:
        yield self.files[path]

    def content(self, path: str) -> Content | None:
        return Content.of([self.files[path]]) if path in self.files else None

    def put_pieces(self, path: str, pieces: Iterable[bytes]) -> Content:
        self.put(path, b"".join(pieces))
        return Content.of([self.files[path]])

    def names(self, directory: str) -> tuple[str, ...]:
        prefix = directory + "/"
        return tuple(sorted({p[len(prefix):].split("/")[0] for p in self.files if p.startswith(prefix)}))

    def write_sector(self, path: str, data: bytes) -> None:
        assert self.open and path in self.files and len(data) == 512
        self.put(path, data)

    def put(self, path: str, data: bytes) -> None:
        assert self.open
        self.point(f"boot:{path}:before")
        self.files[path] = data
        self.point(f"boot:{path}:after")

    def rename(self, old: str, new: str) -> None:
        self.files[new] = self.files.pop(old)

    def remove(self, path: str) -> None:
        self.files.pop(path, None)

    def sizes(self, directory: str) -> tuple[int, ...]:
        return tuple(len(data) for path, data in self.files.items() if path.startswith(f"{directory}/"))

    def free(self) -> int:
        return 1 << 28


class FakeStatePartition(NodeStatePartition):
    """`power_cut()` and `boot()` are to be called together with those of the disks (power_cut before, boot after)."""

    def __init__(self, disks: FakeDisks, files: FakeStateFiles, *, boot_files: BootFiles | None = None,
                 role: str = "worker", foreign: str = "refuse") -> None:
        self.boot_files: BootFiles = boot_files or MemoryBootFiles(disks.point)
        self.mounts, self._fake_disks = FakeMounts(disks, files), disks
        super().__init__(disks=disks, boot_files=self.boot_files, mounts=self.mounts, role=role, foreign=foreign,
                         now=lambda: 1_800_000_000.0)

    def power_cut(self, keep: float = 0.0) -> None:
        for files in (self.mounts.staged, self.mounts.files):
            if files is not None and files.on_partition:
                files.power_cut(keep)
        self.mounts.lose_ram()

    def boot(self) -> None:
        """What the initramfs does: mount when the marker's UUID is found, else go on without. Passes no points."""
        point, self._fake_disks.point = self._fake_disks.point, nowhere
        try:
            self._boot()
        finally:
            self._fake_disks.point = point

    def _boot(self) -> None:
        self.mounts.lose_ram()
        partition = self._fake_disks.own().partition(STATE)
        marker = self.marker()
        self._fake_disks.state = "absent"
        if partition is None or not marker:
            return
        if self._fake_disks.filesystem_uuid(partition) != marker:
            self._fake_disks.state = "failed:other file system"
            return
        try:
            self.mounts.stage(partition)
        except (StateError, NoState):
            self._fake_disks.state = "failed:damaged"
            return
        self.mounts.publish(partition)
        self.mounts.unstage()


def fresh(*, point: Callable[[str], None] = nowhere, slot: Slot = Slot.IMAGE,
          foreign: str = "refuse") -> tuple[FakeDisks, FakeStateFiles, FakeStatePartition]:
    """A freshly flashed disk that was just booted."""
    disks = FakeDisks(point=point, slot=slot)
    files = FakeStateFiles(point=point)
    return disks, files, FakeStatePartition(disks, files, foreign=foreign)
