"""The smallest World an engine can run in: every port in memory, nothing that a power cut could tear.

For tests of the engine and the runner alone. tests/fakes/world.py is the whole node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

from k8r_agent.config.settings import Settings
from k8r_agent.model.boot import BootAssets, BootFacts, BootState, LoaderFault
from k8r_agent.model.layout import Disk, Partition
from k8r_agent.model.slots import Slot
from k8r_agent.ports.step import RebootRequested, World
from k8r_agent.store.slots import SlotStore
from tests.fakes.assets import in_memory
from tests.fakes.statefiles import FakeStateFiles

ASSETS = in_memory(kernel=b"kernel", initrd=b"initrd", cmdline="quiet", release="1")


class Clock:
    """Time passes only when somebody sleeps, or by `tick` per question."""

    def __init__(self) -> None:
        self.time, self.tick = 1795172400.0, 0.0

    def monotonic(self) -> float:
        self.time += self.tick
        return self.time - 1795172000.0

    def sleep(self, seconds: float) -> None:
        self.time += seconds


@dataclass
class SimpleMachine:
    clock: Clock = field(default_factory=Clock)
    boot: int = 1
    reboots: int = 0
    inhibited: str = ""
    reboot_error: Exception | None = None

    def now(self) -> float:
        return self.clock.time

    def monotonic(self) -> float:
        return self.clock.monotonic()

    def sleep(self, seconds: float) -> None:
        self.clock.sleep(seconds)

    def boot_id(self) -> str:
        return f"boot-{self.boot}"

    def architecture(self) -> str:
        return "amd64"

    def boards(self) -> tuple[str, ...]:
        return ("generic-x86_64",)

    def rename(self, name: str) -> None:
        raise AssertionError("nothing here gives names")

    def reboot(self) -> None:
        assert not self.inhibited, "a reboot while the agent itself forbids it"
        if self.reboot_error:
            raise self.reboot_error
        self.reboots += 1

    @contextmanager
    def inhibit(self, why: str) -> Iterator[None]:
        self.inhibited = why
        try:
            yield
        finally:
            self.inhibited = ""

    def health(self) -> tuple[Any, ...]:
        return ()

    def running_release(self) -> int:
        return 0


@dataclass
class SimpleBoot:
    name: str = "simple"
    now: BootState = field(default_factory=lambda: BootState(
        backend="simple", current=Slot.WORKING, primary=Slot.WORKING, armed=None, tries_left=3))
    kept: dict[Slot, BootAssets] = field(default_factory=lambda: {s: ASSETS for s in Slot})
    faults: tuple[LoaderFault, ...] = ()
    came_up: int = 0  # times that the image slot did, not as the primary

    def state(self) -> BootState:
        return self.now

    def set_primary(self, slot: Slot) -> None:
        self.now = replace(self.now, primary=slot)

    def try_once(self, slot: Slot) -> None:
        self.now = replace(self.now, armed=slot)

    def disarm(self) -> None:
        self.now = replace(self.now, armed=None)

    def refill_tries(self) -> None:
        self.now = replace(self.now, tries_left=3)

    def image_came_up(self) -> None:
        self.came_up += 1

    def loader_faults(self) -> tuple[LoaderFault, ...]:
        return self.faults

    def mend_loader(self) -> tuple[str, ...]:
        mended = tuple(fault.path for fault in self.faults if fault.mendable)
        self.faults = tuple(fault for fault in self.faults if not fault.mendable)
        return mended

    def problems(self) -> tuple[str, ...]:
        return ()

    def offer_image(self, offered: bool) -> None:
        self.now = replace(self.now, image_offered=offered)

    def assert_room(self, assets: BootAssets, *slots: Slot) -> None:
        pass

    def install_assets(self, slot: Slot, assets: BootAssets) -> None:
        self.kept[slot] = assets
        self.offer_image(self.now.image_offered or slot is Slot.IMAGE)

    def assets(self, slot: Slot) -> BootAssets | None:
        return self.kept.get(slot)

    def power_on(self, *, works: bool = True) -> None:
        slot = (self.now.armed or self.now.primary) if works else self.now.primary
        self.now = replace(self.now, armed=None, current=slot)


class SimpleDisks:
    def __init__(self) -> None:
        self.error: Exception | None = None

    def assert_writable(self) -> None:
        if self.error:
            raise self.error

    def facts(self) -> BootFacts:
        return BootFacts(slot=Slot.WORKING, disk="vda", bootpart="vda1", rootpart="vda3", statepart="vda4",
                         state="mounted", duplicate=None, loader="simple", watchdog=None)


@dataclass
class SimpleState:
    uuid: str | None = "f00d"

    def mounted(self) -> bool:
        return self.uuid is not None

    def marker(self) -> str | None:
        return self.uuid

    def former(self, disk: Disk) -> Partition | None:
        return None

    def permit(self, disk: str, partition: str, *, fresh: bool, former: Partition | None = None) -> None:
        raise AssertionError("nothing here divides a disk")

    def fresh(self) -> bool:
        return False

    def initialise(self) -> None:
        self.uuid = "f00d"


@dataclass
class Listener:
    """A Reporter that keeps what it was told."""

    texts: list[str] = field(default_factory=list)
    bytes: list[tuple[int, int]] = field(default_factory=list)

    def status(self, text: str) -> None:
        self.texts.append(text)

    def progress(self, done: int, total: int) -> None:
        self.bytes.append((done, total))


@dataclass
class ToyStep:
    """A step whose effect is one name in a set that all toy steps share."""

    name: str
    world: set[str]
    effect: Callable[[World], None] | None = None
    sticks: bool = True
    summary: str = "a toy"
    applied: int = 0

    def done(self, world: World) -> bool:
        return self.name in self.world

    def apply(self, world: World) -> None:
        self.applied += 1
        if self.effect:
            self.effect(world)
        if self.sticks:
            self.world.add(self.name)


def reboot(world: World) -> None:
    raise RebootRequested("into nowhere")


def simple_world(*, files: FakeStateFiles | None = None, settings: Settings | None = None) -> World:
    """bundles and identity are missing: no test that needs them belongs here."""
    files = files or FakeStateFiles()
    return World(settings=settings or Settings(), disks=cast(Any, SimpleDisks()), boot=SimpleBoot(),
                 state=SimpleState(), files=files, slots=SlotStore(files), bundles=cast(Any, None),
                 identity=cast(Any, None), machine=SimpleMachine(), report=Listener())
