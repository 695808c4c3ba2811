"""A running system with a clock that can be wrong, reboots that are counted, and health that can be broken."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, kw_only=True)
class FakeCheck:
    name: str
    ok: bool = True
    detail: str = "well"


def well() -> list[FakeCheck]:
    return [FakeCheck(name=name) for name in ("kernel", "network", "ssh", "state", "release", "units")]


@dataclass
class FakeMachine:
    """`clock` is what the hardware says, `floor` the newest recorded time, both seconds since the epoch. sleep() moves
    time; `on_sleep` lets a test change the world meanwhile. reboot() only counts, as logind returns at once; `boot()`
    is the next boot."""

    clock: float = 1_800_000_000.0  # the certificates of tests/fakes are good then
    floor: float = 0.0
    uptime: float = 30.0
    boots: int = 1
    reboots: int = 0
    release: int = 1
    arch: str = "amd64"
    board_names: tuple[str, ...] = ("generic-x86_64",)
    checks: list[FakeCheck] = field(default_factory=well)
    locks: list[str] = field(default_factory=list)
    lock_log: list[str] = field(default_factory=list)
    on_sleep: Callable[[], None] = lambda: None
    on_reboot: Callable[[], None] = lambda: None
    on_rename: Callable[[str], None] = lambda name: None

    def now(self) -> float:
        return max(self.clock, self.floor)

    def monotonic(self) -> float:
        return self.uptime

    def sleep(self, seconds: float) -> None:
        self.clock, self.uptime = self.clock + seconds, self.uptime + seconds
        self.on_sleep()

    def boot_id(self) -> str:
        return f"00000000-0000-4000-8000-{self.boots:012d}"

    def boot(self) -> None:
        assert not self.locks, "a lock outlived its process"
        self.boots, self.uptime = self.boots + 1, 5.0

    def architecture(self) -> str:
        return self.arch

    def boards(self) -> tuple[str, ...]:
        return self.board_names

    def reboot(self) -> None:
        self.reboots += 1
        self.on_reboot()

    def rename(self, name: str) -> None:
        self.on_rename(name)

    @contextlib.contextmanager
    def inhibit(self, why: str) -> Iterator[None]:
        self.locks.append(why)
        self.lock_log.append(why)
        try:
            yield
        finally:
            self.locks.remove(why)

    def health(self) -> tuple[FakeCheck, ...]:
        return tuple(self.checks)

    def break_check(self, name: str, detail: str = "broken") -> None:
        self.checks = [replace(c, ok=False, detail=detail) if c.name == name else c for c in self.checks]

    def heal(self) -> None:
        self.checks = [replace(c, ok=True, detail="well") for c in self.checks]

    def running_release(self) -> int:
        return self.release
