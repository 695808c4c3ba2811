"""A partition in memory: a medium, a volatile cache before it that a power cut empties, and faults on request."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from k8r_agent.errors import DiskError

SECTOR = 512


class PowerCut(BaseException):
    """Raised by a `point`; not an Exception, so that no clean-up may swallow it."""


@dataclass(frozen=True)
class LogEntry:
    """`what`: write, flush or drop."""

    what: str
    offset: int = 0
    length: int = 0


class FakeDevice:
    """The BlockDevice port. `medium` is what survives a cut, `log` all that was asked for, in order.

    `point(name)` is called before and after each effect and may raise PowerCut. Faults: offsets in `bad_reads` and
    `bad_writes` give an I/O error; with `late_errors` a bad write is met at flush only; bytes of `rotten` read back
    inverted once the cache was dropped.
    """

    def __init__(self, size: int, *, content: bytes = b"", point: Callable[[str], None] = lambda name: None) -> None:
        self.medium = bytearray(content.ljust(size, b"\0"))
        self.size = size
        self.log: list[LogEntry] = []
        self.point = point
        self.bad_reads: set[int] = set()
        self.bad_writes: set[int] = set()
        self.rotten: set[int] = set()
        self.late_errors = False
        self._pending: list[tuple[int, bytes]] = []
        self._view = bytearray(self.medium)
        self._failed = False

    def read(self, offset: int, length: int) -> bytes:
        self._within(offset, length)
        if any(offset <= bad < offset + length for bad in self.bad_reads):
            raise DiskError("fake: read failed", why="Input/output error")
        return bytes(self._view[offset:offset + length])

    def write(self, offset: int, data: bytes) -> None:
        self._within(offset, len(data))
        self.point(f"write:{offset}:before")
        if any(offset <= bad < offset + len(data) for bad in self.bad_writes):
            self._failed = True
            if not self.late_errors:
                raise DiskError("fake: write failed", why="Input/output error")
        self.log.append(LogEntry("write", offset, len(data)))
        self._pending.append((offset, bytes(data)))
        self._view[offset:offset + len(data)] = data
        self.point(f"write:{offset}:after")

    def flush(self) -> None:
        self.point("flush:before")
        if self._failed:
            self._failed = False  # the kernel reports a lost write once
            raise DiskError("fake: flush failed", why="Input/output error")
        for offset, data in self._pending:
            self.medium[offset:offset + len(data)] = data
        self._pending.clear()
        self.log.append(LogEntry("flush"))
        self.point("flush:after")

    def drop_cache(self) -> None:
        self.flush()
        self.log.append(LogEntry("drop"))
        self._view = bytearray(self.medium)
        for at in self.rotten:
            self._view[at] ^= 0xFF

    def cut(self, rng: random.Random | None = None) -> None:
        """The power goes and comes back: of what was not flushed, any sectors may have arrived, in any order."""
        sectors = [(offset + at, data[at:at + SECTOR])
                   for offset, data in self._pending for at in range(0, len(data), SECTOR)]
        if rng is not None:
            survivors = [sector for sector in sectors if rng.random() < rng.choice((0.0, 0.5, 1.0))]
            rng.shuffle(survivors)
            for offset, data in survivors:
                self.medium[offset:offset + len(data)] = data
        self._pending.clear()
        self._failed = False
        self._view = bytearray(self.medium)

    @contextmanager
    def opened(self) -> Iterator[FakeDevice]:
        """As effects.device.open_device(write=True) does: flushed on a clean exit."""
        yield self
        self.flush()

    @property
    def writes(self) -> list[LogEntry]:
        return [entry for entry in self.log if entry.what == "write"]

    def _within(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise DiskError("fake: outside of the device", why=f"{length} bytes at {offset} of {self.size}")


def cut_at(count: int) -> Callable[[str], None]:
    """A `point` that cuts the power at its count-th call (from 0)."""
    left = [count]

    def point(name: str) -> None:
        if left[0] == 0:
            left[0] = -1
            raise PowerCut(name)
        left[0] -= 1
    return point
