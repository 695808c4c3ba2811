"""image.index.json: which blocks of an image are used, what each chunk hashes to and where its frame lies.

Reading is strict, because what is read decides what is written to a disk; writing is canonical, so that the same
image always gives the same bytes (and the same hash in the manifest).
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator
from typing import Any

from k8r_agent.errors import BundleError
from k8r_agent.model.bundle import FORMAT, Chunk, ImageIndex

NAME = "image.index.json"
MAX_INDEX = 4 << 20  # bytes; the index of a 16 GiB image is below 1 MiB
MAX_IMAGE = 1 << 40
BLOCK_SIZES = (4096, 8192, 16384, 32768, 65536)  # with smaller ones the superblock is not in the first 4 KiB alone
MIN_CHUNK, MAX_CHUNK = 64 << 10, 16 << 20  # several chunks are in memory at a time
MAX_FRAME = MAX_CHUNK + (1 << 20)  # incompressible data grows a little when compressed

_SHA256 = re.compile(r"[0-9a-f]{64}")


def read(data: bytes, *, name: str = NAME) -> ImageIndex:
    """Parse and check an index. Raises BundleError that names the place."""
    if len(data) > MAX_INDEX:
        raise BundleError(f"{name} is too large", why=f"{len(data)} bytes, at most {MAX_INDEX} are accepted")
    try:
        top = json.loads(data.decode("utf-8"), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{name} is not valid JSON", why=str(error) or "too deeply nested") from None
    return _Reader(name).index(top)


def write(index: ImageIndex) -> bytes:
    """Canonical bytes: one chunk a line, fixed order of keys. Raises BundleError for what read() refuses."""
    used = ",".join(f"[{first},{count}]" for first, count in index.used)
    chunks = ",\n".join(f'{{"sha256":"{c.sha256}","offset":{c.offset},"length":{c.length}}}' for c in index.chunks)
    text = (f'{{"format":{FORMAT},"size":{index.size},"block_size":{index.block_size},'
            f'"chunk_size":{index.chunk_size},\n"used":[{used}],\n"chunks":[\n{chunks}\n]}}\n')
    data = text.encode("ascii")
    read(data)
    return data


def chunk_range(index: ImageIndex, number: int) -> tuple[int, int]:
    """Offset and length of a chunk in the image, bytes; the last one may be shorter."""
    start = number * index.chunk_size
    return start, min(index.chunk_size, index.size - start)


def used_ranges(index: ImageIndex) -> Iterator[tuple[tuple[int, int], ...]]:
    """For each chunk, the (offset, length) ranges in bytes, relative to the chunk, that the image uses."""
    extents = iter(index.used)
    extent = next(extents, None)
    for number in range(len(index.chunks)):
        start, length = chunk_range(index, number)
        end, ranges = start + length, []
        while extent is not None:
            first, last = extent[0] * index.block_size, (extent[0] + extent[1]) * index.block_size
            if first >= end:
                break
            low, high = max(first, start), min(last, end)
            ranges.append((low - start, high - low))
            if last > end:
                break
            extent = next(extents, None)
        yield tuple(ranges)


def used_bytes(index: ImageIndex) -> int:
    return sum(count for _, count in index.used) * index.block_size


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


class _Reader:
    def __init__(self, name: str) -> None:
        self._name = name

    def index(self, top: object) -> ImageIndex:
        table = self._table(top, "", ("format", "size", "block_size", "chunk_size", "used", "chunks"))
        if self._int(table["format"], "format", 1, 1 << 31) != FORMAT:
            raise self._error("format", f"{table['format']} is not known, this agent reads {FORMAT}")
        block = self._int(table["block_size"], "block_size", 1, 1 << 20)
        if block not in BLOCK_SIZES:
            raise self._error("block_size", f"{block} is none of {', '.join(map(str, BLOCK_SIZES))}")
        chunk = self._int(table["chunk_size"], "chunk_size", MIN_CHUNK, MAX_CHUNK)
        size = self._int(table["size"], "size", 1, MAX_IMAGE)
        if chunk % block or size % block:
            raise self._error("size", "size and chunk_size must be multiples of block_size")
        index = ImageIndex(size=size, block_size=block, chunk_size=chunk,
                           used=self._used(table["used"], size // block), chunks=self._chunks(table["chunks"]))
        expected = -(-size // chunk)
        if len(index.chunks) != expected:
            raise self._error("chunks", f"{len(index.chunks)} of them; {size} bytes make {expected}")
        return index

    def _used(self, value: object, blocks: int) -> tuple[tuple[int, int], ...]:
        end = 0
        extents: list[tuple[int, int]] = []
        for number, item in enumerate(self._list(value, "used")):
            where = f"used[{number}]"
            pair = self._list(item, where)
            if len(pair) != 2:
                raise self._error(where, "expected [first block, count]")
            first = self._int(pair[0], where, 0, blocks - 1)
            count = self._int(pair[1], where, 1, blocks - first)
            if first < end:
                raise self._error(where, "extents must ascend and not overlap")
            end = first + count
            extents.append((first, count))
        return tuple(extents)

    def _chunks(self, value: object) -> tuple[Chunk, ...]:
        """Frames lie one behind the other, so that the whole file also unpacks as one stream. An image that is not
        compressed chunk by chunk (xz) has offset and length 0 throughout."""
        at, framed = 0, None
        chunks: list[Chunk] = []
        for number, item in enumerate(self._list(value, "chunks")):
            where = f"chunks[{number}]"
            table = self._table(item, where, ("sha256", "offset", "length"))
            digest = table["sha256"]
            if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
                raise self._error(f"{where}.sha256", "expected 64 lower-case hex digits")
            offset = self._int(table["offset"], f"{where}.offset", 0, MAX_IMAGE)
            length = self._int(table["length"], f"{where}.length", 0, MAX_FRAME)
            framed = length > 0 if framed is None else framed
            if (length > 0) is not framed or offset != at:
                raise self._error(where, f"frames must follow each other without a gap; expected offset {at}")
            at += length
            chunks.append(Chunk(sha256=digest, offset=offset, length=length))
        return tuple(chunks)

    def _table(self, value: object, where: str, keys: tuple[str, ...]) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self._error(where or "the file", "expected an object")
        for key in value:
            if key not in keys:
                near = difflib.get_close_matches(key, keys, 1)
                raise self._error(f"{where}.{key}"[not where:], "unknown key",
                                  hint=f"did you mean {near[0]!r}?" if near else "")
        for key in keys:
            if key not in value:
                raise self._error(where or "the file", f"{key!r} is missing")
        return value

    def _list(self, value: object, where: str) -> list[Any]:
        if not isinstance(value, list):
            raise self._error(where, "expected a list")
        return value

    def _int(self, value: object, where: str, low: int, high: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self._error(where, f"expected a whole number from {low} to {high}")
        return value

    def _error(self, where: str, why: str, *, hint: str = "") -> BundleError:
        return BundleError(f"{self._name}: {where}", why=why, hint=hint)
