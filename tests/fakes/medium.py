"""A disk as sparse sectors with a write log: everything a power cut can make of it can be enumerated."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from k8r_agent.errors import DiskError


def nowhere(point: str) -> None:
    """A `point` that never crashes."""


@dataclass
class Medium:
    """The BlockDevice port over a dict of sectors (absent: zeros). `durable` survives a power cut, `pending` are
    sector writes since the last flush: any subset of them may have reached the medium."""

    size: int
    sector: int = 512
    durable: dict[int, bytes] = field(default_factory=dict)
    pending: dict[int, bytes] = field(default_factory=dict)
    epochs: list[list[tuple[int, bytes]]] = field(default_factory=lambda: [[]])  # (sector, data) between flushes
    writes: int = 0
    keeps_nothing: bool = False  # a device that accepts writes and forgets them: its cache shows them, the medium not
    fail_at: int = -1  # number of the write that raises EIO
    point: Callable[[str], None] = nowhere

    def read(self, offset: int, length: int) -> bytes:
        if offset < 0 or offset + length > self.size:
            raise DiskError("short read", why=f"{length} bytes at {offset} of {self.size}")
        first, last = offset // self.sector, -(-(offset + length) // self.sector)
        data = b"".join(self._at(n) for n in range(first, last))
        return data[offset - first * self.sector:][:length]

    def write(self, offset: int, data: bytes) -> None:
        if offset % self.sector or len(data) % self.sector:
            raise DiskError("not whole sectors", why=f"{len(data)} bytes at {offset}")
        if offset < 0 or offset + len(data) > self.size:
            raise DiskError("beyond the end", why=f"{len(data)} bytes at {offset} of {self.size}")
        if self.writes == self.fail_at:
            raise DiskError("cannot write", why="Input/output error")
        self.writes += 1
        for n in range(len(data) // self.sector):
            piece = bytes(data[n * self.sector:(n + 1) * self.sector])
            self.pending[offset // self.sector + n] = piece
            self.epochs[-1].append((offset // self.sector + n, piece))

    def flush(self) -> None:
        if not self.keeps_nothing:
            self.durable.update(self.pending)
            self.pending.clear()
        self.epochs.append([])

    def drop_cache(self) -> None:
        if self.keeps_nothing:
            self.pending.clear()

    def power_cut(self, reached: Callable[[int], bool] = lambda sector: False) -> None:
        """Of what was written since the last flush, keep the sectors for which `reached` says so."""
        self.durable.update({n: data for n, data in self.pending.items() if reached(n)})
        self.pending.clear()
        self.epochs = [[]]

    def copy(self) -> Medium:
        return Medium(self.size, self.sector, dict(self.durable), dict(self.pending))

    def _at(self, n: int) -> bytes:
        return self.pending.get(n) or self.durable.get(n) or bytes(self.sector)


def cuts(before: Medium, epochs: list[list[tuple[int, bytes]]], *, exhaustive: int = 12,
         samples: int = 500) -> Iterator[Medium]:
    """Every medium that a power cut can leave while `epochs` are written onto `before`: all complete epochs and any
    subset of the next one's sectors. Sectors that do not change do not count. Up to `exhaustive` changing sectors all
    subsets are tried; beyond that all prefixes, suffixes, single sectors, all but one, and random ones."""
    state, dice = before.copy(), random.Random(1)
    for epoch in epochs:
        final = dict(epoch)
        changing = [n for n in final if final[n] != state._at(n)]
        for chosen in _subsets(changing, exhaustive, samples, dice):
            torn = state.copy()
            torn.durable.update({n: final[n] for n in chosen})
            yield torn
        state.durable.update(final)


def _subsets(items: list[int], exhaustive: int, samples: int, dice: random.Random) -> Iterator[tuple[int, ...]]:
    if len(items) <= exhaustive:
        for size in range(len(items) + 1):
            yield from itertools.combinations(items, size)
        return
    for n in range(len(items) + 1):
        yield tuple(items[:n])
        yield tuple(items[n:])
    for item in items:
        yield (item,)
        yield tuple(i for i in items if i != item)
    for _ in range(samples):
        yield tuple(i for i in items if dice.random() < 0.5)
