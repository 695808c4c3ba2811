"""An image file into its transfer form: one zstd frame per chunk, hashes, and the index over both."""

from __future__ import annotations

import hashlib
import lzma
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import zstandard

from k8r_agent.build.progress import Progress
from k8r_agent.errors import BuildError
from k8r_agent.model.bundle import Chunk, ImageIndex

CHUNK = 4 << 20
BLOCK = 4096
SUFFIX = {"zstd": ".zst", "xz": ".xz", "none": ""}


@dataclass(frozen=True, kw_only=True)
class Packed:
    """What the manifest wants to know of a file: `size`/`sha256` as transferred, `unpacked_*` of its content."""

    size: int
    sha256: str
    unpacked_size: int
    unpacked_sha256: str


def _packer(compression: str, level: int) -> Callable[[bytes], bytes]:
    if compression == "none":
        return lambda data: data
    # One context per call: contexts are not shared between threads. The content size goes into the frame header.
    return lambda data: zstandard.ZstdCompressor(level=level, write_checksum=True).compress(data)


def _blocks(image: Path) -> Iterator[bytes]:
    with image.open("rb") as file:
        while data := file.read(CHUNK):
            yield data


def _in_order(image: Path, pack: Callable[[bytes], bytes]) -> Iterator[tuple[bytes, bytes]]:
    """(raw, packed) of every chunk, packed on all processors, never more than a few chunks in memory."""
    workers = os.cpu_count() or 1
    waiting: deque[tuple[bytes, Future[bytes]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for raw in _blocks(image):
            waiting.append((raw, pool.submit(pack, raw)))
            if len(waiting) > 2 * workers:
                first, future = waiting.popleft()
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()


def pack_image(image: Path, out: Path, *, used: tuple[tuple[int, int], ...], compression: str, level: int,
               progress: Progress) -> tuple[Packed, ImageIndex]:
    """Raises BuildError when a block that is not used is not zero: it would be lost on the way to a node."""
    check_unused_zero(image, used)
    if compression == "xz":
        return _pack_xz(image, out, used=used, progress=progress)
    total = image.stat().st_size
    whole, transferred = hashlib.sha256(), hashlib.sha256()
    chunks: list[Chunk] = []
    offset = done = 0
    with out.open("wb") as file:
        for raw, packed in _in_order(image, _packer(compression, level)):
            file.write(packed)
            whole.update(raw)
            transferred.update(packed)
            chunks.append(Chunk(sha256=hashlib.sha256(raw).hexdigest(), offset=offset, length=len(packed)))
            offset += len(packed)
            done += len(raw)
            progress.bytes(done, total)
    packed_file = Packed(size=offset, sha256=transferred.hexdigest(), unpacked_size=total,
                         unpacked_sha256=whole.hexdigest())
    return packed_file, ImageIndex(size=total, block_size=BLOCK, chunk_size=CHUNK, used=used, chunks=tuple(chunks))


def _pack_xz(image: Path, out: Path, *, used: tuple[tuple[int, int], ...],
             progress: Progress) -> tuple[Packed, ImageIndex]:
    """One stream, as older agents read it. The chunks have hashes and no place of their own in the file (length 0)."""
    total = image.stat().st_size
    whole, transferred = hashlib.sha256(), hashlib.sha256()
    chunks: list[Chunk] = []
    compressor = lzma.LZMACompressor(format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC64, preset=6)
    size = done = 0
    with out.open("wb") as file:
        for raw in _blocks(image):
            whole.update(raw)
            chunks.append(Chunk(sha256=hashlib.sha256(raw).hexdigest(), offset=0, length=0))
            size += _put(file.write, compressor.compress(raw), transferred.update)
            done += len(raw)
            progress.bytes(done, total)
        size += _put(file.write, compressor.flush(), transferred.update)
    packed_file = Packed(size=size, sha256=transferred.hexdigest(), unpacked_size=total,
                         unpacked_sha256=whole.hexdigest())
    return packed_file, ImageIndex(size=total, block_size=BLOCK, chunk_size=CHUNK, used=used, chunks=tuple(chunks))


def _put(write: Callable[[bytes], int], data: bytes, update: Callable[[bytes], object]) -> int:
    update(data)
    return write(data)


def check_unused_zero(image: Path, used: tuple[tuple[int, int], ...]) -> None:
    """Holes in the file are known to be zero and are not read."""
    at = 0
    size = image.stat().st_size
    with image.open("rb") as file:
        for first, count in (*used, (size // BLOCK, 0)):
            _check_zero(file.fileno(), at * BLOCK, first * BLOCK)
            at = first + count


def _check_zero(fd: int, start: int, end: int) -> None:
    while start < end:
        try:
            data_at = os.lseek(fd, start, os.SEEK_DATA)
        except OSError:  # ENXIO: only a hole up to the end of the file
            return
        if data_at >= end:
            return
        data = os.pread(fd, min(end - data_at, 1 << 20), data_at)
        if data.count(0) != len(data):
            where = next(i for i, byte in enumerate(data) if byte) + data_at
            raise BuildError(f"block {where // BLOCK} is not in use but not zero",
                             hint="make the file system new instead of changing it in place")
        start = data_at + len(data)


def pack_bytes(data: bytes, out: Path, *, compression: str, level: int) -> Packed:
    if compression == "xz":
        packed = lzma.compress(data, format=lzma.FORMAT_XZ, preset=6)
    else:
        packed = _packer(compression, level)(data)
    out.write_bytes(packed)
    return Packed(size=len(packed), sha256=hashlib.sha256(packed).hexdigest(), unpacked_size=len(data),
                  unpacked_sha256=hashlib.sha256(data).hexdigest())
