"""Bundles: in memory for tests of steps, and on disk (really packed) for everything below them."""

from __future__ import annotations

import hashlib
import io
import lzma
import random
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import zstandard

from k8r_agent.errors import BundleError, FetchError
from k8r_agent.image import index as indexes
from k8r_agent.image import manifest as manifests
from k8r_agent.model.boot import BootAssets
from k8r_agent.model.bundle import Artifact, Chunk, ImageIndex, Manifest
from k8r_agent.ports.bundle import ImageSource
from tests.fakes.assets import files_of, in_memory

BLOCK, CHUNK = 4096, 64 << 10


def make_image(*, blocks: int = 64, used: tuple[tuple[int, int], ...] = ((0, 20), (30, 10)), seed: int = 1) -> bytes:
    """Random used blocks, the others zero."""
    rng = random.Random(seed)
    data = bytearray(blocks * BLOCK)
    for first, count in used:
        data[first * BLOCK:(first + count) * BLOCK] = rng.randbytes(count * BLOCK)
    return bytes(data)


def make_index(image: bytes, *, used: tuple[tuple[int, int], ...] | None = None, chunk_size: int = CHUNK,
               frames: list[int] | None = None) -> ImageIndex:
    """`frames`: lengths of the compressed chunks; without them, of an image that is a single stream."""
    pieces = [image[at:at + chunk_size] for at in range(0, len(image), chunk_size)]
    offsets = [sum((frames or [])[:n]) for n in range(len(pieces))]
    lengths = frames or [0] * len(pieces)
    chunks = tuple(Chunk(sha256=hashlib.sha256(piece).hexdigest(), offset=offset, length=length)
                   for piece, offset, length in zip(pieces, offsets, lengths, strict=True))
    return ImageIndex(size=len(image), block_size=BLOCK, chunk_size=chunk_size,
                      used=used if used is not None else ((0, len(image) // BLOCK),), chunks=chunks)


def make_assets(release: int = 1, *, size: int = 5000, initrd: int = 0) -> BootAssets:
    rng = random.Random(release)
    return in_memory(kernel=rng.randbytes(size), initrd=rng.randbytes(initrd or 2 * size),
                     cmdline="quiet console=ttyS0", release=str(release))


class FakeSource:
    """The ImageSource port over bytes. `fetches` lists the chunks that were asked for."""

    workers = 1

    def __init__(self, image: bytes, index: ImageIndex | None, *, dear: bool = False) -> None:
        self.image, self.index, self.dear, self.size = image, index, dear, len(image)
        self.digest = hashlib.sha256(image).hexdigest()
        self.fetches: list[int] = []
        self.fetched = 0

    def chunk(self, number: int) -> bytes:
        assert self.index is not None
        self.fetches.append(number)
        start, length = indexes.chunk_range(self.index, number)
        data = self.image[start:start + length]
        self.fetched += length
        if hashlib.sha256(data).hexdigest() != self.index.chunks[number].sha256:
            raise BundleError(f"fake: chunk {number} is damaged")
        return data

    def chunks(self) -> Iterator[bytes]:
        step = self.index.chunk_size if self.index else 4 << 20
        for at in range(0, self.size, step):
            self.fetched += len(self.image[at:at + step])
            yield self.image[at:at + step]


@dataclass
class FakeBundle:
    """The Bundle port. `image_bytes` may be changed by a test after the manifest was made."""

    source: str
    manifest: Manifest
    image_bytes: bytes
    image_index: ImageIndex | None
    assets: BootAssets
    signer: str = "tester"
    raw_manifest: bytes = b""
    raw_signature: bytes = b"signature"
    dear: bool = False
    boot_reads: int = 0

    @contextmanager
    def image(self) -> Iterator[ImageSource]:
        yield FakeSource(self.image_bytes, self.image_index, dear=self.dear)

    def boot_assets(self) -> BootAssets:
        self.boot_reads += 1
        return self.assets

    def raw_index(self) -> bytes:
        return indexes.write(self.image_index) if self.image_index else b""


def fake_bundle(release: int = 2, *, source: str = "/bundle", image: bytes | None = None,
                used: tuple[tuple[int, int], ...] = ((0, 20), (30, 10)), compatible: tuple[str, ...] = ("test-board",),
                architecture: str = "amd64", indexed: bool = True) -> FakeBundle:
    image = make_image(used=used, seed=release) if image is None else image
    index = make_index(image, used=used) if indexed else None
    assets = make_assets(release)
    digest = hashlib.sha256(image).hexdigest()
    artifacts = [Artifact(kind="image", file="image.img", size=len(image), sha256=digest, compression="none",
                          unpacked_size=len(image), unpacked_sha256=digest),
                 Artifact(kind="boot", file="boot.tar.zst", size=100, sha256="0" * 64, compression="zstd",
                          unpacked_size=assets.kernel.size + assets.initrd.size + 4096, unpacked_sha256="0" * 64)]
    manifest = Manifest(compatible=compatible, architecture=architecture, release=release, version=f"test.{release}",
                        os="Test OS", kubernetes="", created="2026-11-20T11:00:00Z", artifacts=tuple(artifacts))
    return FakeBundle(source=source, manifest=manifest, image_bytes=image, image_index=index, assets=assets,
                      raw_manifest=manifests.write(manifest))


@dataclass
class FakeBundles:
    """The Bundles port: what lies where. Opening an unknown source is a FetchError."""

    at: dict[str, FakeBundle] = field(default_factory=dict)
    opened: list[str] = field(default_factory=list)

    def add(self, bundle: FakeBundle) -> FakeBundle:
        self.at[bundle.source] = bundle
        return bundle

    @contextmanager
    def open(self, source: str) -> Iterator[FakeBundle]:
        self.opened.append(source)
        if source not in self.at:
            raise FetchError(f"{source} holds no bundle")
        yield self.at[source]


def boot_tar(assets: BootAssets) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in (*files_of(assets).items(), ("cmdline", assets.cmdline.encode()),
                           ("release", assets.release.encode())):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def pack(data: bytes, compression: str) -> bytes:
    if compression == "xz":
        return lzma.compress(data, preset=1)
    return zstandard.ZstdCompressor(level=3).compress(data) if compression == "zstd" else data


def artifact(kind: str, file: str, packed: bytes, content: bytes, compression: str) -> Artifact:
    return Artifact(kind=kind, file=file, size=len(packed), sha256=hashlib.sha256(packed).hexdigest(),
                    compression=compression, unpacked_size=len(content),
                    unpacked_sha256=hashlib.sha256(content).hexdigest())


def write_bundle(directory: Path, image: bytes, *, release: int = 2, used: tuple[tuple[int, int], ...] | None = None,
                 compression: str = "zstd", chunk_size: int = CHUNK, indexed: bool = True, framed: bool = True,
                 assets: BootAssets | None = None) -> Manifest:
    """A bundle directory as the builder makes it, not signed. `framed`: one frame per chunk."""
    directory.mkdir(parents=True, exist_ok=True)
    framed = framed and indexed and compression != "xz"
    frames = [pack(image[at:at + chunk_size], compression) for at in range(0, len(image), chunk_size)]
    packed = b"".join(frames) if framed else pack(image, compression)
    suffix = {"zstd": ".zst", "xz": ".xz", "none": ""}[compression]
    files = [("image", f"image.img{suffix}", packed, image, compression)]
    if indexed:
        index = make_index(image, used=used, chunk_size=chunk_size,
                           frames=[len(piece) for piece in frames] if framed else None)
        raw = indexes.write(index)
        files.append(("index", indexes.NAME, raw, raw, "none"))
    tar = boot_tar(assets or make_assets(release))
    small = "zstd" if compression == "none" else compression
    files.append(("boot", f"boot.tar{'.xz' if small == 'xz' else '.zst'}", pack(tar, small), tar, small))
    for _, name, data, _, _ in files:
        (directory / name).write_bytes(data)
    manifest = replace(fake_bundle(release).manifest,
                       artifacts=tuple(artifact(kind, name, data, content, how)
                                       for kind, name, data, content, how in files))
    (directory / manifests.NAME).write_bytes(manifests.write(manifest))
    return manifest
