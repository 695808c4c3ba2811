"""The running system: clock, reboot, services, network, as far as steps and gates ask for it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Protocol

from k8r_agent.model.layout import Disk, Partition


class Machine(Protocol):
    def now(self) -> float:
        """Seconds since the epoch, never below the newest time this node has recorded."""

    def monotonic(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...

    def boot_id(self) -> str: ...

    def architecture(self) -> str:
        """Debian's name: amd64, arm64."""

    def boards(self) -> tuple[str, ...]:
        """What a manifest's `compatible` is matched against: `generic-x86_64`, device-tree names."""

    def reboot(self) -> None:
        """Ask logind; returns while the system is going down."""

    def rename(self, name: str) -> None:
        """Give the system another host name, at once and for its later boots. Raises BusError."""

    def inhibit(self, why: str) -> AbstractContextManager[None]:
        """Hold a shutdown lock (visible in `systemd-inhibit --list`) while inside."""

    def health(self) -> tuple[Check, ...]:
        """Observe the running slot: kernel and modules, network, SSH, state, the agent's own units."""

    def running_release(self) -> int:
        """Release number of the running system (/usr/lib/k8r/release), 0 when unknown."""


class Check(Protocol):
    """One line of a health or self check."""

    @property
    def name(self) -> str: ...
    @property
    def ok(self) -> bool: ...
    @property
    def detail(self) -> str: ...


def told(checks: Iterable[Check]) -> str:
    """Checks in one sentence, the same wherever people are told of them."""
    return "; ".join(f"{check.name}: {check.detail}" for check in checks)


class Identity(Protocol):
    """machine-id, hostname, host keys, users and authorized keys, network, /etc/k8r: kept on the state partition."""

    def capture(self) -> None:
        """Copy what the running system has into the state partition. Idempotent."""

    def captured(self) -> bool: ...


class StatePartition(Protocol):
    """The partition itself, as opposed to the files on it."""

    def mounted(self) -> bool: ...

    def marker(self) -> str | None:
        """UUID that the boot partition says was initialised; None: never, or nobody knows."""

    def former(self, disk: Disk) -> Partition | None:
        """Where the table of `disk` has no state partition: the one of an earlier life of it, which is still there."""

    def permit(self, disk: str, partition: str, *, fresh: bool, former: Partition | None = None) -> None:
        """Before the table write that makes the partition, with the IDs it is to get: its file system may be made.
        `fresh`: it makes the working slot as well. `former` is remembered: the write may destroy what told of it, and
        no file system is made then. Changes nothing where the boot partition says that it was initialised. Durable
        on return."""

    def fresh(self) -> bool:
        """Until it is initialised: the present table was written with a permit that said `fresh`."""

    def initialise(self) -> None:
        """First boot only: mkfs when that was permitted and the partition carries no signature, adopt or refuse as
        configured when it does; then marker, mount at /var/lib/k8r, move the journal there. Idempotent at any
        point of interruption. Never formats what was initialised (Protected)."""


class Reporter(Protocol):
    """Where progress goes: sd_notify STATUS, the follow channel, a terminal."""

    def status(self, text: str) -> None: ...

    def progress(self, done: int, total: int) -> None:
        """Bytes. Also feeds the service watchdog; raises Cancelled when a cancel was asked for and is possible."""
