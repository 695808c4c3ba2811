"""Golden images of 256 KiB with seven used blocks, and a bundle of each release: as small as a crash matrix wants.

Release 2 differs from release 1 in some blocks only, as releases do. Block 0 carries the superblock, which changes
with every mount, so it is looked at for its checksum alone.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from k8r_agent.errors import FetchError
from k8r_agent.image import index as indexes
from k8r_agent.image import manifest as manifests
from k8r_agent.model import superblock
from k8r_agent.model.boot import BootAssets
from k8r_agent.model.bundle import Artifact, Chunk, ImageIndex, Manifest
from k8r_agent.steps.image_slot import FLASHED
from tests.fakes import ext4
from tests.fakes.assets import in_memory
from tests.fakes.disks import FakeDisks

SIZE, BLOCK, CHUNK = 256 << 10, 4096, 64 << 10
USED = ((0, 3), (17, 2), (40, 2))
IN_USE = 41  # the block that a running system changes
RELEASES = (1, 2, 3)


def block(release: int, number: int) -> bytes:
    if number == 0:
        raw = bytearray(BLOCK)
        uuid = f"0000000{release}-0000-4000-8000-000000000000"
        raw[superblock.OFFSET:superblock.OFFSET + 1024] = ext4.superblock(uuid=uuid, label="image", size=SIZE)
        return bytes(raw)
    same = number in (1, 17)
    return f"block {number} of release {0 if same else release}".encode().ljust(BLOCK, b".")


@functools.cache
def content_of(release: int) -> dict[int, bytes]:
    """Offset in bytes → one used block."""
    return {n * BLOCK: block(release, n) for first, count in USED for n in range(first, first + count)}


@functools.cache
def image_of(release: int) -> bytes:
    raw = bytearray(SIZE)
    for offset, data in content_of(release).items():
        raw[offset:offset + BLOCK] = data
    return bytes(raw)


@functools.cache
def index_of(release: int) -> ImageIndex:
    raw = image_of(release)
    return ImageIndex(size=SIZE, block_size=BLOCK, chunk_size=CHUNK, used=USED, chunks=tuple(
        Chunk(sha256=hashlib.sha256(raw[at:at + CHUNK]).hexdigest(), offset=at, length=CHUNK)
        for at in range(0, SIZE, CHUNK)))


@functools.cache
def assets_of(release: int) -> BootAssets:
    return in_memory(kernel=f"kernel {release}".encode(), initrd=f"initrd {release}".encode(), cmdline="quiet",
                      release=str(release))


@functools.cache
def manifest_of(release: int) -> Manifest:
    raw, index = image_of(release), indexes.write(index_of(release))
    boot = b"boot"
    return Manifest(
        compatible=("generic-x86_64",), architecture="amd64", release=release, version=f"2026.{release}", os="Debian",
        kubernetes="", created="2026-11-20T11:00:00Z", artifacts=(
            _artifact("image", "image.img", raw), _artifact("index", "image.index.json", index),
            _artifact("boot", "boot.tar", boot)))


def _artifact(kind: str, file: str, data: bytes) -> Artifact:
    digest = hashlib.sha256(data).hexdigest()
    return Artifact(kind=kind, file=file, size=len(data), sha256=digest, compression="none", unpacked_size=len(data),
                    unpacked_sha256=digest)


def release_of(disks: FakeDisks, number: int, *, in_use: int = 0) -> int:
    """The release whose every used block a partition holds, 0 for none. `in_use`: a release whose changed block is
    as good as its own."""
    if number not in disks.kernel:
        return 0
    start, _ = disks.kernel[number]
    if not ext4.intact(disks.superblock(number)):
        return 0
    for release in RELEASES:
        if all(disks.medium.read(start + offset, BLOCK) in _allowed(release, offset, in_use)
               for offset in content_of(release) if offset):
            return release
    return 0


def _allowed(release: int, offset: int, in_use: int) -> tuple[bytes, ...]:
    own = content_of(release)[offset]
    return (own, changed(release)) if release == in_use and offset == IN_USE * BLOCK else (own,)


def changed(release: int) -> bytes:
    return f"logs of release {release}".encode().ljust(BLOCK, b",")


def soil(disks: FakeDisks, number: int, release: int) -> None:
    """What a running system does to its slot."""
    disks.medium.write(disks.kernel[number][0] + IN_USE * BLOCK, changed(release))
    disks.medium.flush()


class GoldenImage:
    """The ImageSource of a bundle. `dear` as over a network, so that present chunks are not fetched again."""

    size, workers, dear, fetched = SIZE, 1, True, 0

    def __init__(self, release: int, point: Callable[[str], None]) -> None:
        self._release, self._point = release, point
        self.index: ImageIndex | None = index_of(release)
        self.digest = hashlib.sha256(image_of(release)).hexdigest()

    def chunk(self, number: int) -> bytes:
        return image_of(self._release)[number * CHUNK:(number + 1) * CHUNK]

    def chunks(self) -> Iterator[bytes]:
        return (self.chunk(n) for n in range(SIZE // CHUNK))


class GoldenBundle:
    signer, raw_signature = "maintainer", b"signature"

    def __init__(self, source: str, release: int, point: Callable[[str], None], kubernetes: str) -> None:
        self.source, self._release, self._point = source, release, point
        self.manifest = replace(manifest_of(release), kubernetes=kubernetes)
        self.raw_manifest = manifests.write(self.manifest)

    @contextmanager
    def image(self) -> Iterator[GoldenImage]:
        yield GoldenImage(self._release, self._point)

    def boot_assets(self) -> BootAssets:
        return assets_of(self._release)

    def raw_index(self) -> bytes:
        return indexes.write(index_of(self._release))


class GoldenBundles:
    """`release-<n>` is the source of each; the disk was flashed with release 1. All hold that version of Kubernetes
    ("": none)."""

    def __init__(self, point: Callable[[str], None], kubernetes: str = "") -> None:
        self._point, self._kubernetes = point, kubernetes

    @contextmanager
    def open(self, source: str) -> Iterator[GoldenBundle]:
        number = "1" if source == FLASHED else source.removeprefix("release-")
        if not number.isdecimal() or int(number) not in RELEASES:
            raise FetchError(f"{source} holds no bundle")
        yield GoldenBundle(source, int(number), self._point, self._kubernetes)
