"""Streams out of compressed files, piece by piece, within limits of memory."""

from __future__ import annotations

import lzma
from collections.abc import Callable, Iterator
from typing import Any

from k8r_agent.errors import BundleError

PIECE = 1 << 20  # bytes of unpacked data at a time
INPUT = 256 << 10  # bytes of compressed data at a time
LZMA_MEMORY = 128 << 20  # bytes; `xz -9` needs 65 MiB to unpack
ZSTD_WINDOW = 128 << 20  # bytes; `zstd -19` uses 8 MiB, `--long` 128 MiB

Read = Callable[[], bytes]  # the next compressed bytes, b"" at the end


def unpack(read: Read, compression: str, *, name: str) -> Iterator[bytes]:
    """Pieces of at most PIECE bytes. Raises BundleError that names the file; what `read` raises passes through."""
    if compression == "xz":
        return _xz(read, name)
    return _zstd(read, name) if compression == "zstd" else iter(read, b"")


def _xz(read: Read, name: str) -> Iterator[bytes]:
    """All streams of an .xz file, which may be padded with zeros (xz file format, 2.2)."""
    data = read()
    while data:
        decoder = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=LZMA_MEMORY)
        while not decoder.eof:
            if decoder.needs_input and not data and not (data := read()):
                raise BundleError(f"{name} is cut off", why="the xz stream has no end")
            try:
                piece = decoder.decompress(data, PIECE)
            except lzma.LZMAError as error:
                why = str(error)
                limit = "limit" in why.lower()
                raise BundleError(f"{name} cannot be unpacked", why=why, hint=f"at most {LZMA_MEMORY >> 20} MiB of "
                                  "memory are used: compress with xz -9 or less" if limit else "") from None
            data = b""
            if piece:
                yield piece
        data = decoder.unused_data.lstrip(b"\0")
        while not data and (more := read()):
            data = more.lstrip(b"\0")


class _Source:
    """What zstandard's stream_reader wants: an object with read()."""

    def __init__(self, read: Read) -> None:
        self._read = read

    def read(self, _size: int = -1) -> bytes:
        return self._read()


def _zstd(read: Read, name: str) -> Iterator[bytes]:
    """All frames. A missing end is not noticed by zstandard: the caller compares length and hash."""
    import zstandard

    decoder = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW)
    source: Any = _Source(read)
    with decoder.stream_reader(source, read_size=INPUT, read_across_frames=True) as reader:
        while True:
            try:
                piece = reader.read(PIECE)
            except zstandard.ZstdError as error:
                raise BundleError(f"{name} cannot be unpacked", why=str(error)) from None
            if not piece:
                return
            yield piece


def frame(data: bytes, size: int, *, name: str) -> bytes:
    """The `size` bytes that one zstd frame holds. Raises BundleError; never makes more than that."""
    import zstandard

    try:
        says = zstandard.get_frame_parameters(data).content_size
        if says not in (size, zstandard.CONTENTSIZE_UNKNOWN):
            raise BundleError(f"{name}: a frame holds {says} bytes", why=f"the index says {size}")
        found = bytes(zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW).decompress(data, max_output_size=size))
    except zstandard.ZstdError as error:
        raise BundleError(f"{name} cannot be unpacked", why=str(error)) from None
    if len(found) != size:
        raise BundleError(f"{name}: a frame holds {len(found)} bytes", why=f"the index says {size}")
    return found
