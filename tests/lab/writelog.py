"""What a guest's disk was told, and every disk that a power cut could have made of it.

QEMU's filter `blklogwrites` writes down each write, flush and discard in the format of Linux' dm-log-writes
(Documentation/admin-guide/device-mapper/log-writes.rst, drivers/md/dm-log-writes.c): a superblock, then for each entry
one sector that describes it, followed by its data. An entry is logged when the disk has done it and before the guest
is told, so whatever the guest waited for stands before what it did next.

A `Replay` brings a copy of the starting disk to any point of the log. After a power cut the disk holds all that was
written before the last flush, and of each sector written since then the old content or any of the newer ones.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import os
import random
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.lab.disks import DiskImage

MAGIC, VERSION = 0x6A736677736872, 1
SUPER, HEAD = struct.Struct("<QQQI"), struct.Struct("<QQQQ")
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8
KNOWN = FLUSH | FUA | DISCARD | MARK
SECTOR = 512  # what a disk writes as a whole or not at all
CHUNK = 4 << 20


class BadLog(Exception):
    pass


@dataclass(frozen=True)
class Entry:
    """One thing the disk was told; bytes. `data` is where its content stands in the log, -1 for none."""

    number: int
    flags: int
    offset: int
    length: int
    data: int

    @property
    def flushes(self) -> bool:
        return bool(self.flags & FLUSH)

    @property
    def lasting(self) -> bool:
        """Durable when it returned, without a flush."""
        return bool(self.flags & FUA)

    @property
    def discards(self) -> bool:
        return bool(self.flags & DISCARD)

    def within(self, start: int, size: int) -> bool:
        return bool(self.length) and self.offset < start + size and start < self.offset + self.length


@dataclass(frozen=True, slots=True)  # there are millions of them
class Piece:
    """What arrives or does not: a sector of a write, or a discard."""

    entry: int
    offset: int
    length: int
    data: int


class WriteLog:
    """The superblock counts entries up to the last flush only; those of a killed QEMU that follow are read too."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.fstat(self._file).st_size
        if self.size == 0:  # QEMU ended before the first flush
            self.sector, self.counted = SECTOR, 0
        else:
            raw = os.pread(self._file, SUPER.size, 0).ljust(SUPER.size, b"\0")
            magic, version, self.counted, self.sector = SUPER.unpack(raw)
            if not any(raw):
                self.sector, self.counted = SECTOR, 0
            elif (magic, version) != (MAGIC, VERSION) or self.sector % SECTOR or not self.sector:
                raise BadLog(f"{path}: not a log of dm-log-writes, or of another version")
        self.entries = tuple(self._read())
        if len(self.entries) < self.counted:
            raise BadLog(f"{path}: {self.counted} entries are promised, {len(self.entries)} are there")
        self._flushes = [entry.number + 1 for entry in self.entries if entry.flushes]

    def close(self) -> None:
        os.close(self._file)

    def _read(self) -> Iterator[Entry]:
        at = self.sector
        for number in itertools.count():
            head = os.pread(self._file, HEAD.size, at)
            if len(head) < HEAD.size or not any(head):
                return
            sector, sectors, flags, extra = HEAD.unpack(head)
            if flags & ~KNOWN:
                raise BadLog(f"{self.path}: entry {number} has flags {flags:#x}")
            length, data = sectors * self.sector, at + self.sector
            held = extra if flags & MARK else 0 if flags & DISCARD else length
            if data + held > -(-self.size // self.sector) * self.sector:
                return  # QEMU was killed before it had written this one; the guest was not told either
            at = data + -(-held // self.sector) * self.sector
            yield Entry(number, flags, sector * self.sector, 0 if flags & MARK else length, data if held else -1)

    def read(self, at: int, length: int) -> bytes:
        return os.pread(self._file, length, at).ljust(length, b"\0")

    def boundary(self, position: int) -> int:
        """Where the last flush before `position` ended: all entries before it are durable."""
        found = bisect.bisect_right(self._flushes, position)
        return self._flushes[found - 1] if found else 0

    def flushes(self) -> tuple[int, ...]:
        """The positions right after each flush."""
        return tuple(self._flushes)

    def in_flight(self, position: int) -> list[Entry]:
        """Entries whose effect a power cut at `position` may lose."""
        since = self.entries[self.boundary(position):position]
        return [entry for entry in since if entry.length and not entry.lasting]

    def touching(self, start: int, size: int, *, after: int = 0) -> list[int]:
        """Numbers of the entries that write to that part of the disk."""
        return [entry.number for entry in self.entries[after:] if entry.within(start, size)]

    def pieces(self, entries: Iterable[Entry], start: int = 0, size: int = 1 << 62) -> list[Piece]:
        """Sector by sector, in the order of writing; only what lies in that part of the disk."""
        found: list[Piece] = []
        for entry in entries:
            first, last = max(entry.offset, start), min(entry.offset + entry.length, start + size)
            if entry.discards:
                found += [Piece(entry.number, first, last - first, -1)] if first < last else []
                continue
            found += [Piece(entry.number, at, SECTOR, entry.data + at - entry.offset)
                      for at in range(first, last, SECTOR)]
        return found


def content(file: int, at: int, end: int) -> Iterator[tuple[int, bytes]]:
    """(offset, data) of what stands in that part of a sparse file, without its holes."""
    while at < end:
        try:
            at = os.lseek(file, at, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing but a hole up to the end
            return
        stop = min(os.lseek(file, at, os.SEEK_HOLE), end, at + CHUNK)
        if at < end:
            yield at, os.pread(file, stop - at, at)
        at = stop


def copy_spans(start: Path, to: Path, spans: tuple[tuple[int, int], ...], shift: int) -> None:
    with start.open("rb") as source, to.open("wb") as target:
        target.truncate(max(offset + size for offset, size in spans) - shift)
        for offset, size in spans:
            for at, data in content(source.fileno(), offset, offset + size):
                os.pwrite(target.fileno(), data, at - shift)


def runs(pieces: Iterable[Piece]) -> Iterator[tuple[int, int, int]]:
    """(offset, bytes, data) of pieces that follow each other, on the disk and in the log, as one."""
    offset, length, data = 0, 0, -1
    for piece in pieces:
        if length and piece.data >= 0 and data >= 0 and (piece.offset, piece.data) == (offset + length, data + length):
            length += piece.length
            continue
        if length:
            yield offset, length, data
        offset, length, data = piece.offset, piece.length, piece.data
    if length:
        yield offset, length, data


class Replay:
    """A disk that goes along with the log. `disk` is the file that is rebuilt; it starts as a copy of `start`.

    `only`: spans (offset, bytes) of the disk that matter; the others stay holes. `shift` is the offset at which the
    file begins, so that `only=((start, size),), shift=start` rebuilds one partition as a file of its own.
    """

    def __init__(self, log: WriteLog, start: Path, disk: Path, *, only: tuple[tuple[int, int], ...] = (),
                 shift: int = 0) -> None:
        self.log, self._start, self.disk, self.position = log, start, disk, 0
        self.spans, self._shift = only or ((0, start.stat().st_size),), shift
        self._file = -1
        self._over()

    def _over(self) -> None:
        self.close()
        if self.spans == ((0, self._start.stat().st_size),):
            DiskImage(self._start).copy(self.disk)
        else:
            copy_spans(self._start, self.disk, self.spans, self._shift)
        self._file = os.open(self.disk, os.O_RDWR | os.O_CLOEXEC)
        self.size, self.position = os.fstat(self._file).st_size, 0

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def to(self, position: int) -> Path:
        """The disk with the first `position` entries done, in order. Backwards costs a new copy."""
        if position < self.position:
            self._over()
        for entry in self.log.entries[self.position:position]:
            self._entry(entry)
        self.position = position
        return self.disk

    def durable(self, position: int) -> Path:
        """The disk as a power cut at `position` leaves it when nothing arrived that was not flushed."""
        self.to(self.log.boundary(position))
        for entry in self.log.entries[self.position:position]:
            if entry.lasting:
                self._entry(entry)
        return self.disk

    def pieces(self, entries: Iterable[Entry]) -> list[Piece]:
        """Those that reach into the rebuilt part."""
        entries = list(entries)
        found = [piece for start, size in self.spans for piece in self.log.pieces(entries, start, size)]
        return found if len(self.spans) == 1 else sorted(found, key=lambda piece: piece.entry)

    def keep(self, pieces: Iterable[Piece]) -> None:
        """These pieces arrived as well, for good."""
        for offset, length, data in runs(pieces):
            self._do(offset - self._shift, length, data)

    @contextlib.contextmanager
    def torn(self, pieces: Iterable[Piece]) -> Iterator[Path]:
        """The disk with these pieces arrived as well; afterwards it is as it was."""
        undo: list[tuple[int, bytes]] = []
        try:
            for offset, length, data in runs(pieces):
                at = offset - self._shift
                undo += self._content(at, length) if data < 0 else [(at, os.pread(self._file, length, at))]
                self._do(at, length, data)
            yield self.disk
        finally:
            for offset, old in reversed(undo):
                os.pwrite(self._file, old, offset)

    def would_change(self, pieces: Iterable[Piece]) -> list[Piece]:
        """Those that differ from what the disk holds now; the order is kept."""
        return [p for p in pieces if p.data < 0
                or self.log.read(p.data, p.length) != os.pread(self._file, p.length, p.offset - self._shift)]

    def _entry(self, entry: Entry) -> None:
        for start, size in self.spans:
            first, last = max(entry.offset, start), min(entry.offset + entry.length, start + size)
            if first < last:
                data = entry.data if entry.data < 0 else entry.data + first - entry.offset
                self._do(first - self._shift, last - first, data)

    def _do(self, offset: int, length: int, data: int) -> None:
        if data < 0:
            for at, old in self._content(offset, length):
                os.pwrite(self._file, bytes(len(old)), at)
            return
        for at in range(0, length, CHUNK):
            part = min(CHUNK, length - at)
            os.pwrite(self._file, self.log.read(data + at, part), offset + at)

    def _content(self, offset: int, length: int) -> list[tuple[int, bytes]]:
        return list(content(self._file, offset, min(offset + length, self.size)))


def subsets(pieces: list[Piece], *, exhaustive: int = 8, samples: int = 40, seed: int = 1) -> Iterator[list[Piece]]:
    """What may have arrived of them, order kept (so of a sector written twice either content). Up to `exhaustive`
    pieces all subsets; beyond that nothing, all, prefixes and suffixes, each one alone, all but one, and random ones:
    at most `samples` of each kind."""
    if len(pieces) <= exhaustive:
        for size in range(len(pieces) + 1):
            yield from map(list, itertools.combinations(pieces, size))
        return
    dice = random.Random(seed)
    yield []
    yield list(pieces)
    places = range(1, len(pieces))
    for n in sorted(dice.sample(places, min(samples, len(places)))):
        yield pieces[:n]
        yield pieces[n:]
        yield [pieces[n]]
        yield pieces[:n] + pieces[n + 1:]
    for share in dice.choices((0.1, 0.5, 0.9), k=samples):
        yield [piece for piece in pieces if dice.random() < share]
