"""A whole node in memory: disk, boot partition, firmware, state partition, and the product's own code on top.

What runs is the product: engine, runner, tasks, steps, boot backends, store. What is faked is the hardware below,
and all of it can lose power at any point (`point`). A node can be copied at any instant (copy.deepcopy), so that a
crash is explored from a copy while the original goes on.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from k8r_agent.config.settings import BootSettings, DiskSettings, KubernetesSettings, Settings
from k8r_agent.engine import Outcome
from k8r_agent.model import superblock
from k8r_agent.model.layout import IMAGE, WORKING
from k8r_agent.model.slots import Slot
from k8r_agent.ports.boot import BootBackend
from k8r_agent.ports.bootfiles import BootFiles
from k8r_agent.ports.step import World
from k8r_agent.runner import Runner
from k8r_agent.steps import STEPS, TABLE, duties
from k8r_agent.store.journal import Journal
from k8r_agent.store.slots import SlotStore
from k8r_agent.store.tasks import TaskFiles
from tests.fakes.assets import kernel_of
from tests.fakes.cluster import FakeCluster
from tests.fakes.disks import FakeDisks
from tests.fakes.flashed import MIB, flashed_gpt
from tests.fakes.golden import GoldenBundles, assets_of, content_of, release_of, soil
from tests.fakes.identity import FakeIdentity
from tests.fakes.imageroot import FakeImageRoot
from tests.fakes.machine import FakeMachine, well
from tests.fakes.snapshots import FakeSnapshots
from tests.fakes.statefiles import FakeStateFiles
from tests.fakes.statepartition import FakeStatePartition

TASKS = Path(__file__).parents[2] / "tasks"
NUMBERS = {Slot.IMAGE: IMAGE, Slot.WORKING: WORKING}
_SURVIVED: set[object] = set()  # states of loader and slots that were seen to survive lost boots


class Violation(BaseException):
    """Something that must never happen has happened. Not for the engine to handle as one more failed try."""


class Loader(Protocol):
    """One kind of boot loader with its files and variables (tests/fakes/firmware.py)."""

    @property
    def files(self) -> BootFiles: ...

    def backend(self, current: Slot | None) -> BootBackend: ...

    def choose(self) -> tuple[Slot, bytes]:
        """What the firmware and the loader do at power-on: the slot whose kernel they start, and that kernel. Uses
        up a one-shot and a try. Raises Violation when they end at a prompt."""

    def decided(self) -> Slot:
        """The primary, read from the medium without the product's code."""

    def power_cut(self, keep: float) -> None:
        """`keep`: which share of what was not durable reached the medium, oldest first; negative: newest first."""

    def settle(self) -> None:
        """All of it reaches the medium."""

    def key(self) -> object:
        """Hashable: everything that survives a power cut."""

    def pending(self) -> bool:
        """Whether a power cut would lose something now."""


class Nobody:
    """A Reporter for whom nobody looks."""

    def status(self, text: str) -> None:
        pass

    def progress(self, done: int, total: int) -> None:
        pass


def _bootable(release: int, kernel: bytes) -> bool:
    """`release`: what the slot holds, 0 for a mixture."""
    return bool(release) and kernel == kernel_of(assets_of(release))


@contextlib.contextmanager
def counted_uuids() -> Iterator[None]:
    """The same ones in every session, so that two ways to one state are seen to lead to one state."""
    numbers, real = itertools.count(1), uuid.uuid4
    uuid.uuid4 = lambda: uuid.UUID(int=next(numbers) | 0x4000 << 64 | 0x8000 << 48)
    try:
        yield
    finally:
        uuid.uuid4 = real


class NoLock:
    @contextlib.contextmanager
    def hold(self, holder: str, *, wait: float = 0.0) -> Iterator[NoLock]:
        yield self

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        yield


class Behaviour:
    """How systems behave on this node. `boots` counts boots of a slot that could come up."""

    def comes_up(self, slot: Slot, release: int, boots: int) -> bool:
        return True

    def healthy(self, slot: Slot, release: int, boots: int) -> bool:
        return True

    def period(self) -> int:
        """After how many boots the same happens again."""
        return 1


class _Operator:
    """Stands where hooks would: comes by before a step."""

    def __init__(self, node: FakeNode) -> None:
        self._node = node

    def run(self, task: str, when: str, step: str, facts: Mapping[str, str]) -> tuple[str, ...]:
        if (when, step) == ("before", self._node.cancel_before):
            Journal(self._node.files).ask_cancel(facts["txn"])
        return ()


class FakeNode:
    """A node that was just flashed with release 1, and a bundle of each release to update from. `cancel_before`: the
    step before which an operator asks for a cancel."""

    def __init__(self, loader: Callable[[Callable[[str], None]], Loader], *, behaviour: Behaviour | None = None,
                 when_working_dead: str = "offer", kubernetes: KubernetesSettings | None = None,
                 cluster: FakeCluster | None = None) -> None:
        self.behaviour, self.cancel_before = behaviour or Behaviour(), ""
        self.settings = Settings(disk=DiskSettings(image_size=2 * MIB, state_size=2 * MIB),
                                 boot=BootSettings(when_working_dead=when_working_dead),
                                 kubernetes=kubernetes or KubernetesSettings())
        self.watch: Callable[[FakeNode, str], None] | None = None
        self.running: Slot | None = None
        self.boots = 0
        self.soiled = 0  # release of the working slot that has been in use
        self.loader = loader(self.point)
        self.disks = FakeDisks(flashed_gpt(16 * MIB, boot=1 * MIB, image=1 * MIB), point=self.point,
                               primary=self.primary)
        self.flash(Slot.IMAGE, 1)
        self.files = FakeStateFiles(point=self.point)
        self.state = FakeStatePartition(self.disks, self.files, boot_files=self.loader.files)
        self.machine = FakeMachine()
        self.identity = FakeIdentity(files=self.files)
        self.cluster = cluster or FakeCluster(version="")
        self.bundles = GoldenBundles(self.point, self.cluster.version)
        self.cluster.attach(self.files, self.point)
        self.cluster.now = self.machine.now
        self.roots: dict[object, FakeStateFiles] = {}

    def primary(self) -> Slot:
        return self.loader.backend(self.running).state().primary

    def flash(self, slot: Slot, release: int) -> None:
        start, _ = self.disks.kernel[NUMBERS[slot]]
        for offset, data in content_of(release).items():
            self.disks.medium.write(start + offset, data)
        self.disks.medium.flush()

    # what happens to it

    def point(self, name: str) -> None:
        if self.watch:
            self.watch(self, name)

    def power_cut(self, *, keep: float = 0.0, reached: Callable[[int], bool] = lambda sector: False) -> None:
        self.disks.power_cut(reached)
        self.loader.power_cut(keep)
        self.state.power_cut(keep)
        self.cluster.power_cut(keep)
        self.machine.locks.clear()
        self.running = None

    def kill(self) -> None:
        """The agent dies, the kernel lives: locks are dropped, everything written stays visible."""
        self.machine.locks.clear()

    def shut_down(self) -> None:
        """An orderly reboot loses nothing."""
        self.power_cut(keep=1.0, reached=lambda sector: True)

    def power_on(self) -> None:
        """Until a system comes up; the watchdog ends those that do not. Raises Violation when none ever does."""
        for _ in range(40):
            slot, kernel = self.loader.choose()
            self.boots += 1
            release = self._content(slot)
            if _bootable(release, kernel) and self.behaviour.comes_up(slot, release, self.boots):
                return self._up(slot, release)
        raise Violation("no system comes up any more")

    def _up(self, slot: Slot, release: int) -> None:
        watch, self.watch = self.watch, None
        self.disks.boot(slot)
        self.state.boot()
        self.machine.boot()
        self.machine.release, self.machine.checks = release, well()
        if not self.behaviour.healthy(slot, release, self.boots):
            self.machine.break_check("ssh")
        self.identity.image_slot = slot is Slot.IMAGE
        if slot is Slot.WORKING and self.soiled != release:
            soil(self.disks, NUMBERS[slot], release)
            self.soiled = release
        self.cluster.boot(root=self._root(slot), image_slot=slot is Slot.IMAGE)
        self.running, self.watch = slot, watch

    def _root(self, slot: Slot) -> FakeStateFiles:
        """Files beside those of the image: the working slot's as long as its file system lives, the image slot's in
        memory."""
        if slot is Slot.IMAGE:
            return FakeStateFiles(point=self.point, on_partition=False)
        found = superblock.parse(self.disks.superblock(WORKING))
        life = found.uuid if found else None
        self.roots = {life: self.roots.get(life) or FakeStateFiles(point=self.point)}
        return self.roots[life]

    def lost_boots(self, number: int = 12) -> None:
        """Raises Violation when the loader, if boot after boot is cut before anybody can call it good, ends up with
        slots that cannot be booted, or with systems that do not come up."""
        held = {slot: self._content(slot) for slot in NUMBERS}
        state = (type(self.loader), self.loader.key(), type(self.behaviour), *held.values())
        if state in _SURVIVED:
            return
        trial = copy.deepcopy(self.loader, {id(self): self})
        picks = [trial.choose() for _ in range(number)][-4:]
        if not any(_bootable(held[slot], kernel) and self.behaviour.comes_up(slot, held[slot], self.boots + boots)
                   for boots, (slot, kernel) in enumerate(picks)):
            raise Violation(f"after {number} lost boots it boots what cannot be booted, for ever: "
                            + ", ".join(str(slot) for slot, _ in picks))
        _SURVIVED.add(state)

    def _content(self, slot: Slot) -> int:
        """Release whose every used block is in the slot; 0 for a mixture."""
        return release_of(self.disks, NUMBERS[slot], in_use=self.soiled if slot is Slot.WORKING else 0)

    def session(self) -> Outcome | None:
        """The agent runs until it has nothing to do or the node reboots. Its runner is up before the boot completes:
        multi-user.target waits for the one, and the other waits for that."""
        outcome = self.work()
        if outcome is not Outcome.REBOOTING:
            self.complete()
        return outcome

    def complete(self) -> None:
        """As `k8r-agent boot confirm` does."""
        backend = self.loader.backend(self.running)
        if not all(check.ok for check in self.machine.checks):
            return
        if backend.state().primary is self.running:
            backend.refill_tries()
        if self.running is Slot.IMAGE:
            backend.image_came_up()
        elif backend.state().primary is Slot.WORKING:
            duties.boot_completed(self.files)

    def work(self) -> Outcome | None:
        """As k8r-runner.service does."""
        runner = Runner(self.world(), tasks=TaskFiles(TABLE, (TASKS,)), steps=STEPS, lock=NoLock(),  # type: ignore[arg-type]
                        hooks=_Operator(self), sleep=self.machine.sleep)  # type: ignore[arg-type]
        with counted_uuids():
            return runner.run()

    def world(self) -> World:
        return World(settings=self.settings, disks=self.disks, boot=self.loader.backend(self.running),
                     state=self.state, files=self.files, slots=SlotStore(self.files), bundles=self.bundles,
                     identity=self.identity, machine=self.machine, report=Nobody(), settle=self.settle,
                     snapshots=FakeSnapshots(self.files, running=self.cluster.etcd_running),
                     image_root=FakeImageRoot(), cluster=self.cluster, boot_files=self.loader.files)

    def settle(self) -> None:
        watch, self.watch = self.watch, None
        self.loader.settle()
        self.disks.medium.flush()
        self.files.medium.update(self.files.live)
        for name in [n for n in self.files.medium if n not in self.files.live]:
            del self.files.medium[name]
        self.cluster.root.power_cut(1.0)
        self.watch = watch
