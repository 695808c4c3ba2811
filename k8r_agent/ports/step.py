"""One step of a task, and all that it may touch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:  # names for the reader and mypy; `status` imports this module and none of those
    from k8r_agent.config.settings import Settings
    from k8r_agent.errors import ConfigError
    from k8r_agent.model.slots import Slot, SlotStatus
    from k8r_agent.model.txn import Transaction
    from k8r_agent.ports.blockdev import Disks
    from k8r_agent.ports.boot import BootBackend
    from k8r_agent.ports.bootfiles import BootFiles
    from k8r_agent.ports.bundle import Bundles
    from k8r_agent.ports.cluster import Cluster
    from k8r_agent.ports.imageroot import ImageRoot
    from k8r_agent.ports.machine import Identity, Machine, Reporter, StatePartition
    from k8r_agent.ports.snapshots import Snapshots
    from k8r_agent.ports.statefiles import StateFiles


class RebootRequested(Exception):
    """A step armed a boot and asks the engine to reboot now. Not an error."""


class Slots(Protocol):
    """Slot status and kept manifests, on the state partition (store/slots.py)."""

    def status(self, slot: Slot) -> SlotStatus: ...

    def set_status(self, slot: Slot, status: SlotStatus) -> None: ...

    def keep(self, release: int, files: Mapping[str, bytes]) -> None:
        """Keep a release's manifest.toml, manifest.toml.sig, image.index.json, source; drop all but the last two."""

    def kept(self, release: int, name: str) -> bytes | None: ...

    def kept_releases(self) -> tuple[int, ...]: ...

    def release_floor(self) -> int:
        """Lowest release that an update accepts: the highest confirmed one, 0 on a new node."""

    def raise_floor(self, release: int) -> None:
        """`release` was confirmed."""

    def confirmed_releases(self) -> tuple[int, ...]: ...

    def problems(self) -> tuple[str, ...]:
        """What is damaged, and what holds instead. Observes only, as all that reads here."""

    def mend(self) -> tuple[str, ...]:
        """problems(), and each damaged record set aside."""


def _no_kubernetes() -> Cluster:
    from k8r_agent.ports.cluster import NoKubernetes

    return cast("Cluster", NoKubernetes())


def _no_snapshots() -> Snapshots:
    from k8r_agent.ports.snapshots import NoSnapshots

    return cast("Snapshots", NoSnapshots())


def _no_image_root() -> ImageRoot:
    from k8r_agent.ports.imageroot import NoImageRoot

    return cast("ImageRoot", NoImageRoot())


@dataclass
class World:
    """Everything a step sees. `remember` and `recall` keep small strings in the transaction, durable on return.

    `settle()` returns when everything that can be read is on the medium: an agent that was killed may have left
    writes in memory, which look done and are gone after a power cut. `mistakes` are the statements of the
    configuration that `settings` had to do without. `boot_files` is None where there is no boot partition.
    """

    settings: Settings
    disks: Disks
    boot: BootBackend
    state: StatePartition
    files: StateFiles
    slots: Slots
    bundles: Bundles
    identity: Identity
    machine: Machine
    report: Reporter
    cluster: Cluster = field(default_factory=_no_kubernetes)
    boot_files: BootFiles | None = None
    snapshots: Snapshots = field(default_factory=_no_snapshots)
    image_root: ImageRoot = field(default_factory=_no_image_root)
    txn: Transaction | None = None
    remember_fact: Remember | None = None
    settle: Callable[[], None] = lambda: None
    seen: dict[str, str] = field(default_factory=dict)  # what was compared already, by this process
    mistakes: tuple[ConfigError, ...] = ()

    def arg(self, name: str, default: str = "") -> str:
        return self.txn.args.get(name, default) if self.txn else default

    def recall(self, name: str, default: str = "") -> str:
        return self.txn.facts.get(name, default) if self.txn else default

    def remember(self, name: str, value: str) -> None:
        """Raises AssertionError outside a transaction."""
        assert self.remember_fact is not None, "no transaction is running"
        self.txn = self.remember_fact(name, value)


class Remember(Protocol):
    def __call__(self, name: str, value: str) -> Transaction: ...


class Step(Protocol):
    """`done()` observes the world, cheaply and honestly; `apply()` converges it and may be run again at any
    point of interruption. `apply()` raises K8rError when it cannot, RebootRequested after arming a boot."""

    name: str
    summary: str

    def done(self, world: World) -> bool: ...

    def apply(self, world: World) -> None: ...
