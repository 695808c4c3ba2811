"""The boot loaders of the crash matrix: the real ones (tests/fakes/firmware.py), and one without any hazards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from k8r_agent.errors import Protected
from k8r_agent.model.boot import BootAssets, BootState, LoaderFault
from k8r_agent.model.slots import Slot
from k8r_agent.ports.boot import BootBackend
from tests.fakes.assets import kernel_of
from tests.fakes.firmware import GrubFirmware, SystemdBootFirmware
from tests.fakes.golden import assets_of
from tests.fakes.statepartition import MemoryBootFiles

TRIES = 3


@dataclass
class PlainLoader:
    """The loader one would wish for: every decision is one durable write. The rule of the engine is tried on it
    before the real loaders' files add their own hazards."""

    point: Callable[[str], None]
    primary: Slot = Slot.IMAGE
    armed: Slot | None = None
    tries: int = TRIES
    offered: bool = True
    kept: dict[Slot, BootAssets] = field(default_factory=lambda: {Slot.IMAGE: assets_of(1)})

    def __post_init__(self) -> None:
        self.files = MemoryBootFiles(self.point)

    def backend(self, current: Slot | None) -> BootBackend:
        return PlainBackend(self, current)

    def choose(self) -> tuple[Slot, bytes]:
        slot, self.armed = self.armed or self.primary, None
        if slot is Slot.WORKING:
            if self.tries == 0 and self.primary is Slot.WORKING and self.offered:
                slot = Slot.IMAGE
            self.tries = max(0, self.tries - 1)
        return slot, kernel_of(self.kept[slot])

    def decided(self) -> Slot:
        return self.primary

    def power_cut(self, keep: float) -> None:
        pass

    def settle(self) -> None:
        pass

    def pending(self) -> bool:
        return False

    def key(self) -> object:
        kept = tuple(sorted((slot.value, assets.release) for slot, assets in self.kept.items()))
        return self.primary, self.armed, self.tries, self.offered, kept, frozenset(self.files.files.items())


@dataclass
class PlainBackend:
    loader: PlainLoader
    current: Slot | None
    name: str = "plain"

    def state(self) -> BootState:
        loader = self.loader
        return BootState(backend=self.name, current=self.current, primary=loader.primary, armed=loader.armed,
                         tries_left=loader.tries, image_offered=loader.offered)

    def set_primary(self, slot: Slot) -> None:
        if slot not in self.loader.kept:
            raise Protected(f"{slot} cannot boot")
        self.loader.point("boot:primary:before")
        self.loader.primary = slot
        self.loader.point("boot:primary:after")

    def try_once(self, slot: Slot) -> None:
        self.loader.point("boot:arm:before")
        self.loader.armed = slot
        self.loader.point("boot:arm:after")

    def disarm(self) -> None:
        self.loader.point("boot:disarm:before")
        self.loader.armed = None
        self.loader.point("boot:disarm:after")

    def refill_tries(self) -> None:
        self.loader.point("boot:refill:before")
        self.loader.tries = TRIES
        self.loader.point("boot:refill:after")

    def image_came_up(self) -> None:
        """It counts no boots of the image slot."""

    def offer_image(self, offered: bool) -> None:
        self.loader.point("boot:offer:before")
        self.loader.offered = offered
        self.loader.point("boot:offer:after")

    def loader_faults(self) -> tuple[LoaderFault, ...]:
        return ()

    def mend_loader(self) -> tuple[str, ...]:
        return ()

    def problems(self) -> tuple[str, ...]:
        return ()

    def assert_room(self, assets: BootAssets, *slots: Slot) -> None:
        pass

    def install_assets(self, slot: Slot, assets: BootAssets) -> None:
        self.loader.point("boot:assets:before")
        self.loader.kept[slot] = assets
        self.loader.offered = self.loader.offered or slot is Slot.IMAGE
        if slot is Slot.WORKING:
            self.loader.tries = TRIES
        self.loader.point("boot:assets:after")

    def assets(self, slot: Slot) -> BootAssets | None:
        return self.loader.kept.get(slot)


LOADERS: dict[str, Callable[[Callable[[str], None]], PlainLoader | SystemdBootFirmware | GrubFirmware]] = {
    "plain": PlainLoader, "systemd-boot": SystemdBootFirmware, "grub": GrubFirmware}
