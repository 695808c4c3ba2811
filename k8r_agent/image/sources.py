"""The three kinds of ImageSource: frames of a bundle, a stream, and the image slot itself."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Protocol

from k8r_agent.errors import BundleError, ContentChanged, DiskError
from k8r_agent.image.index import chunk_range, used_ranges
from k8r_agent.image.unpack import INPUT, PIECE, frame, unpack
from k8r_agent.model.bundle import Artifact, ImageIndex
from k8r_agent.ports.blockdev import BlockDevice

STREAM_CHUNK = 4 << 20


class Reader(Protocol):
    """An artifact as it is transferred."""

    @property
    def size(self) -> int: ...

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes. Raises FetchError, BundleError."""

    def again(self, offset: int, length: int) -> bytes:
        """The same from the origin, once more, because what came did not fit."""


class FramedImage:
    """One compressed frame per chunk: any chunk may be left out."""

    def __init__(self, reader: Reader, artifact: Artifact, index: ImageIndex, *, dear: bool) -> None:
        self._reader, self._artifact, self.index = reader, artifact, index
        self.size, self.dear, self.workers = index.size, dear, 1 if dear else 2
        self.digest = artifact.unpacked_sha256
        self.fetched = 0

    def chunk(self, number: int) -> bytes:
        wanted = self.index.chunks[number]
        try:
            data = self._chunk(number, self._reader.read(wanted.offset, wanted.length))
        except (BundleError, ContentChanged):  # the hash of the chunk decides, not the server
            data = self._chunk(number, self._reader.again(wanted.offset, wanted.length))
        self.fetched += wanted.length
        return data

    def _chunk(self, number: int, packed: bytes) -> bytes:
        _, size = chunk_range(self.index, number)
        name = self._artifact.file
        data = frame(packed, size, name=name) if self._artifact.compression == "zstd" else packed
        if hashlib.sha256(data).hexdigest() != self.index.chunks[number].sha256:
            raise BundleError(f"{name}: chunk {number} is not what the index says",
                              hint="the file was damaged, or replaced after the manifest was signed")
        return data

    def chunks(self) -> Iterator[bytes]:
        whole = hashlib.sha256()
        for number in range(len(self.index.chunks)):
            data = self.chunk(number)
            whole.update(data)
            yield data
        if whole.hexdigest() != self._artifact.unpacked_sha256:
            raise BundleError(f"{self._artifact.file}: manifest and index do not belong together")


class StreamImage:
    """A file that unpacks from its beginning only. Without an index nothing can be left out; without a manifest
    (legacy: size 0, no hash) nothing can be checked but that it unpacks."""

    workers, dear = 1, False

    def __init__(self, reader: Reader, artifact: Artifact, index: ImageIndex | None) -> None:
        self._reader, self._artifact, self.index = reader, artifact, index
        self.size = artifact.unpacked_size
        self.digest = artifact.unpacked_sha256
        self.fetched = 0
        self._step = index.chunk_size if index else STREAM_CHUNK
        self._stream: Iterator[bytes] | None = None
        self._next = self._at = 0

    def chunk(self, number: int) -> bytes:
        assert self.index is not None, "a stream without an index has no numbered chunks"
        if self._stream is None or number < self._next:
            self._stream, self._next = self.chunks(), 0
        while True:
            data = next(self._stream, None)
            if data is None:
                raise BundleError(f"{self._artifact.file} ends before chunk {number}")
            self._next += 1
            if self._next > number:
                break
        if hashlib.sha256(data).hexdigest() != self.index.chunks[number].sha256:
            raise BundleError(f"{self._artifact.file}: chunk {number} is not what the index says")
        return data

    def chunks(self) -> Iterator[bytes]:
        whole, size = hashlib.sha256(), 0
        self._at = 0
        for data in self._pieces():
            size += len(data)
            if self.size and size > self.size:
                raise BundleError(f"{self._artifact.file} unpacks to more than the {self.size} bytes of the manifest")
            whole.update(data)
            if size == self.size:  # before the last piece is handed out
                self._check(whole.hexdigest())
            yield data
        if size < self.size:
            raise BundleError(f"{self._artifact.file} unpacks to {size} bytes", why=f"the manifest says {self.size}",
                              hint="the file is cut off")
        self.digest = whole.hexdigest()

    def _check(self, digest: str) -> None:
        if self._artifact.unpacked_sha256 and digest != self._artifact.unpacked_sha256:
            raise BundleError(f"{self._artifact.file} is not the file that the manifest lists",
                              why=f"sha256 {digest[:16]}… instead of {self._artifact.unpacked_sha256[:16]}…")

    def _pieces(self) -> Iterator[bytes]:
        """Regrouped to chunks."""
        buffer, have = bytearray(self._step), 0  # one for all: growing ones would scatter the heap
        for piece in unpack(self._read, self._artifact.compression, name=self._artifact.file):
            at = 0
            while at < len(piece):
                taken = min(len(piece) - at, self._step - have)
                buffer[have:have + taken] = piece[at:at + taken]
                at, have = at + taken, have + taken
                if have == self._step:
                    yield bytes(buffer)
                    have = 0
        if have:
            yield bytes(buffer[:have])

    def _read(self) -> bytes:
        length = min(INPUT, self._reader.size - self._at)
        data = self._reader.read(self._at, length) if length > 0 else b""
        self._at += len(data)
        self.fetched += len(data)
        return data


class SlotImage:
    """The image slot, through the index that is kept of it: only used blocks are read, the rest is zero."""

    workers, dear = 2, False

    def __init__(self, device: BlockDevice, index: ImageIndex, *, digest: str = "") -> None:
        if index.size > device.size:
            raise DiskError("the image slot is smaller than its image",
                            why=f"{device.size} bytes, {index.size} needed")
        self._device, self.index, self.size, self.digest = device, index, index.size, digest
        self._ranges = tuple(used_ranges(index))
        self.fetched = 0

    def chunk(self, number: int) -> bytes:
        start, size = chunk_range(self.index, number)
        ranges = self._ranges[number]
        data = self._device.read(start, size) if ranges == ((0, size),) else self._gathered(start, size, ranges)
        self.fetched += sum(length for _, length in ranges)
        if hashlib.sha256(data).hexdigest() != self.index.chunks[number].sha256:
            raise DiskError(f"the image slot is damaged at {start} to {start + size}",
                            why="it does not hash to what its manifest says",
                            hint="`k8r-agent update` writes it anew; if that happens again, replace the medium")
        return data

    def _gathered(self, start: int, size: int, ranges: tuple[tuple[int, int], ...]) -> bytes:
        parts: list[bytes] = []
        at = 0
        for offset, length in (*ranges, (size, 0)):
            parts.append(bytes(offset - at))
            parts += [self._device.read(start + p, min(PIECE, offset + length - p))
                      for p in range(offset, offset + length, PIECE)]
            at = offset + length
        return b"".join(parts)

    def chunks(self) -> Iterator[bytes]:
        for number in range(len(self.index.chunks)):
            yield self.chunk(number)
