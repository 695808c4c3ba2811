"""Writing an image into a slot: only what differs, the superblock last, and memory that does not grow with the image.

Chunks are fetched, unpacked and hashed ahead of the thread that compares and writes. The caller has already marked
the slot as pending; a write that was cut off is simply run again and skips what is there.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial

from k8r_agent.errors import BundleError, DiskTooSmall
from k8r_agent.image.ahead import in_order
from k8r_agent.image.index import chunk_range, used_bytes, used_ranges
from k8r_agent.image.readback import PIECE, chunk_digest
from k8r_agent.model.bundle import Chunk, ImageIndex
from k8r_agent.model.units import format_size
from k8r_agent.ports.blockdev import BlockDevice
from k8r_agent.ports.bundle import ImageSource
from k8r_agent.ports.machine import Reporter

BLOCK = 4096  # bytes: what is compared and written at least, and what is written last
CHUNK = 4 << 20  # of an image that came without an index
_COARSE = 64 << 10
Ranges = tuple[tuple[int, int], ...]
Patch = Callable[[int, bytes], bytes]


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a write did, in bytes. `index` describes the slot now: the source's own, or made while streaming; chunks
    whose content was patched have the hash in `changed`. `digest` is that of the whole image."""

    index: ImageIndex
    changed: dict[int, str] = field(default_factory=dict)
    digest: str = ""
    read: int = 0
    written: int = 0
    skipped: int = 0
    fetched: int = 0
    seconds: float = 0.0


def write(device: BlockDevice, source: ImageSource, *, report: Reporter, patch: Patch | None = None) -> Written:
    """Make `device` hold the image; durable on return, but not yet read back (readback.verify).

    `patch(offset, data)` returns what is to be written for a chunk at that offset of the image. Raises DiskTooSmall
    before the first byte where the size is known, DiskError, BundleError, FetchError, Cancelled.
    """
    started = time.monotonic()
    if source.size > device.size:
        raise DiskTooSmall(f"the image does not fit: it has {format_size(source.size)}, the slot "
                           f"{format_size(device.size)}", why=f"{source.size - device.size} bytes too many",
                           hint="a larger slot needs a fresh flash with a larger disk.image_size")
    writer = _Writer(device)
    index = source.index
    changed: dict[int, str] = {}
    if index is not None:
        _write_chunks(writer, source, index, report, patch, changed)
    else:
        index = _write_stream(writer, source, report, patch)
    writer.finish()
    return Written(index=index, changed=changed, digest=source.digest, read=writer.read, written=writer.written,
                   skipped=writer.skipped, fetched=source.fetched, seconds=time.monotonic() - started)


def _write_chunks(writer: _Writer, source: ImageSource, index: ImageIndex, report: Reporter, patch: Patch | None,
                  changed: dict[int, str]) -> None:
    total, done = used_bytes(index), 0
    workers = 1 if source.dear else source.workers
    jobs = (partial(_fetch, writer, source, index, number, ranges)
            for number, ranges in enumerate(used_ranges(index)) if ranges)
    report.progress(0, total)
    with closing(in_order(jobs, workers=workers, depth=2, beat=lambda: report.progress(done, total))) as results:
        for number, ranges, data in results:
            start, _ = chunk_range(index, number)
            if data is None:
                writer.skip(ranges)
            else:
                new = patch(start, data) if patch else data
                if new is not data:
                    changed[number] = hashlib.sha256(new).hexdigest()
                writer.put(start, new, ranges)
                del new, data
            done += sum(length for _, length in ranges)
            report.progress(done, total)


def _fetch(writer: _Writer, source: ImageSource, index: ImageIndex, number: int,
           ranges: Ranges) -> tuple[int, Ranges, bytes | None]:
    """None: the target holds the chunk already. The first one is always written, for the sake of its block 0."""
    if source.dear and number:
        writer.read += sum(length for _, length in ranges)
        if chunk_digest(writer.device, index, number, ranges) == index.chunks[number].sha256:
            return number, ranges, None
    return number, ranges, source.chunk(number)


def _write_stream(writer: _Writer, source: ImageSource, report: Reporter, patch: Patch | None) -> ImageIndex:
    size, chunks = 0, []
    jobs = _pulls(source.chunks())
    with closing(in_order(jobs, workers=1, depth=2, beat=lambda: report.progress(size, source.size))) as results:
        for data in results:
            if data is None:
                break
            length = len(data)
            if length % BLOCK:
                data += bytes(-length % BLOCK)
            if size % CHUNK or length > CHUNK or size + len(data) > writer.device.size:
                raise DiskTooSmall(f"the image does not fit into the slot of {format_size(writer.device.size)}")
            if patch:
                data = patch(size, data)
            writer.put(size, data, ((0, len(data)),))
            chunks.append(Chunk(sha256=hashlib.sha256(data).hexdigest(), offset=0, length=0))
            size += len(data)
            report.progress(size, max(source.size, size))
    if not size:
        raise BundleError("the image is empty")
    return ImageIndex(size=size, block_size=BLOCK, chunk_size=CHUNK, used=((0, size // BLOCK),), chunks=tuple(chunks))


def _pulls(pieces: Iterator[bytes]) -> Iterator[Callable[[], bytes | None]]:
    while True:
        yield lambda: next(pieces, None)


class _Judge:
    """Whether to read what is there before writing. It saves wear and time while some of it is right already; where
    nothing is, it only costs: then one chunk in eight is looked at."""

    def __init__(self) -> None:
        self._seen = self._misses = 0

    def compares(self) -> bool:
        self._seen += 1
        return self._misses < 4 or self._seen % 8 == 0

    def saw(self, *, differing: int, total: int) -> None:
        self._misses = self._misses + 1 if differing * 10 >= total * 9 else 0


class _Writer:
    def __init__(self, device: BlockDevice) -> None:
        self.device = device
        self.read = self.written = self.skipped = 0
        self._judge = _Judge()
        self._first: bytes | None = None  # block 0 of the image, kept back until all else is on the medium
        self._touched = False

    def skip(self, ranges: Ranges) -> None:
        self.skipped += sum(length for _, length in ranges)

    def put(self, start: int, data: bytes, ranges: Ranges) -> None:
        """Write the `ranges` of a chunk that lies at `start`, as far as they differ."""
        compares = self._judge.compares()
        total = differing = 0
        for offset, length in ranges:
            if start + offset == 0:
                self._first = data[:BLOCK]
                offset, length = BLOCK, length - BLOCK
            for at in range(offset, offset + length, PIECE):
                new = data[at:min(at + PIECE, offset + length)]
                total += len(new)
                differing += self._piece(start + at, new, compares=compares)
        if compares and total:
            self._judge.saw(differing=differing, total=total)

    def finish(self) -> None:
        """All else must be on the medium before the block that makes it a file system."""
        if self._touched:
            self.device.flush()
        if self._first is not None:
            self.read += BLOCK
            if self.device.read(0, BLOCK) == self._first:
                self.skipped += BLOCK
            else:
                self.device.write(0, self._first)
                self.written += BLOCK
        self.device.flush()

    def _piece(self, at: int, new: bytes, *, compares: bool) -> int:
        if not compares:
            self._write(at, new)
            return len(new)
        old = self.device.read(at, len(new))
        self.read += len(old)
        count = 0
        for low, high in differing_runs(old, new):
            self._write(at + low, new[low:high])
            count += high - low
        self.skipped += len(new) - count
        return count

    def _write(self, at: int, data: bytes) -> None:
        if not self._touched:
            self._touched = True
            if self.device.read(0, BLOCK).strip(b"\0"):  # a half-written slot must not look like a file system
                self.device.write(0, bytes(BLOCK))
                self.device.flush()
        self.device.write(at, data)
        self.written += len(data)


def differing_runs(old: bytes, new: bytes) -> list[tuple[int, int]]:
    """(start, end) of runs of blocks that differ. Slices of bytes compare at memory speed, memoryviews do not."""
    if old == new:
        return []
    runs: list[tuple[int, int]] = []
    for outer in range(0, len(new), _COARSE):
        if old[outer:outer + _COARSE] == new[outer:outer + _COARSE]:
            continue
        for at in range(outer, min(outer + _COARSE, len(new)), BLOCK):
            end = min(at + BLOCK, len(new))
            if old[at:end] != new[at:end]:
                if runs and runs[-1][1] == at:
                    runs[-1] = (runs[-1][0], end)
                else:
                    runs.append((at, end))
    return runs
