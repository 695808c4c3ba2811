"""Manifest and index: canonical bytes, strict reading, and no exception but BundleError whatever is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8r_agent.errors import BundleError
from k8r_agent.image import index as indexes
from k8r_agent.image import manifest as manifests
from k8r_agent.model.bundle import Artifact, Chunk, ImageIndex, Manifest

HEX = "ab" * 32
IMAGE = Artifact(kind="image", file="image.img.zst", size=1000, sha256=HEX, compression="zstd",
                 unpacked_size=1 << 20, unpacked_sha256="cd" * 32)
INDEX = Artifact(kind="index", file="image.index.json", size=10, sha256=HEX, compression="none",
                 unpacked_size=10, unpacked_sha256=HEX)
BOOT = Artifact(kind="boot", file="boot.tar.zst", size=10, sha256=HEX, compression="zstd",
                unpacked_size=10240, unpacked_sha256=HEX)
MANIFEST = Manifest(compatible=("generic-x86_64", "raspberrypi,4-model-b"), architecture="amd64", release=2,
                    version="2026.11.2", os="Debian \"12\"", kubernetes="", created="2026-11-20T11:00:00Z",
                    artifacts=(IMAGE, INDEX, BOOT))
TEXT = manifests.write(MANIFEST).decode()


def test_a_manifest_survives_writing_and_reading() -> None:
    assert manifests.read(TEXT.encode()) == MANIFEST
    assert manifests.write(manifests.read(TEXT.encode())) == TEXT.encode()


def test_order_of_artifacts_does_not_change_the_bytes() -> None:
    assert manifests.write(replace(MANIFEST, artifacts=(BOOT, INDEX, IMAGE))) == TEXT.encode()


@pytest.mark.fault(40)
@pytest.mark.parametrize(("change", "says"), [
    (lambda t: t.replace("release = 2", "release = 0"), "manifest.toml:4: release"),
    (lambda t: t.replace("release = 2", "release = true"), "whole number"),
    (lambda t: t.replace("release = 2", "relaese = 2"), "manifest.toml:4: relaese: unknown key"),
    (lambda t: t.replace("format = 1", "format = 2"), "newer than this agent"),
    (lambda t: t.replace("format = 1\n", ""), "format: missing"),
    (lambda t: t.replace('"image.img.zst"', '"../image"'), "manifest.toml:12: artifact 1: file"),
    (lambda t: t.replace('"image.img.zst"', '".hidden"'), "bare file name"),
    (lambda t: t.replace('"image.img.zst"', '"boot.tar.zst"'), "is taken"),
    (lambda t: t.replace('"image.img.zst"', '"manifest.toml"'), "is taken"),
    (lambda t: t.replace('kind = "boot"', 'kind = "image"'), "a second image"),
    (lambda t: t.replace('kind = "boot"', 'kind = "bot"'), "one of image, index, boot"),
    (lambda t: t.replace("cd" * 32, "CD" * 32), "hex digits"),
    (lambda t: t.replace("cd" * 32, "cd" * 31), "hex digits"),
    (lambda t: t.replace("size = 1000", "size = -1"), "whole number"),
    (lambda t: t.replace("size = 1000", f"size = {1 << 62}"), "whole number"),
    (lambda t: t.replace("size = 1000", "size = 1000000000"), "larger than the unpacked"),
    (lambda t: t.replace("unpacked_size = 10\n", "unpacked_size = 11\n"), "not compressed"),
    (lambda t: t.replace("unpacked_size = 10240", f"unpacked_size = {1 << 40}"), "artifact 3: unpacked_size"),
    (lambda t: t.replace('"2026.11.2"', '"a\\nb"'), "a version"),
    (lambda t: t.replace('["generic-x86_64", "raspberrypi,4-model-b"]', "[]"), "compatible"),
    (lambda t: t[:t.index("[[artifact]]")], "artifact: missing"),
    (lambda t: t[:t.rindex("[[artifact]]")], "no artifact of kind 'boot'"),
    (lambda t: "<html><body>404</body></html>", "not valid TOML"),
    (lambda t: t + "#" * manifests.MAX_MANIFEST, "too large"),
])
def test_a_wrong_manifest_is_refused_with_its_place(change: Callable[[str], str], says: str) -> None:
    with pytest.raises(BundleError) as caught:
        manifests.read(change(TEXT).encode())
    assert says in str(caught.value)


def test_the_nearest_name_is_offered() -> None:
    with pytest.raises(BundleError) as caught:
        manifests.read(TEXT.replace("unpacked_sha256", "unpacked_sha", 1).encode())
    assert caught.value.hint == "did you mean 'unpacked_sha256'?"


def test_writing_refuses_what_reading_would() -> None:
    with pytest.raises(BundleError):
        manifests.write(replace(MANIFEST, version="no spaces"))


@given(st.binary(max_size=300))
def test_any_bytes_are_a_manifest_or_a_bundle_error(data: bytes) -> None:
    for read in (manifests.read, indexes.read):
        with pytest.raises(BundleError):
            read(data)


@given(st.integers(0, len(TEXT) - 1), st.integers(0, 255))
def test_a_flipped_byte_is_a_manifest_or_a_bundle_error(at: int, byte: int) -> None:
    data = bytearray(TEXT.encode())
    data[at] = byte
    try:
        manifests.read(bytes(data))
    except BundleError:
        pass


def make_index(blocks: int, extents: list[tuple[int, int]]) -> ImageIndex:
    chunk, size = 64 << 10, blocks * 4096
    chunks, at = [], 0
    for number in range(-(-size // chunk)):
        chunks.append(Chunk(sha256=f"{number:064x}", offset=at, length=10 + number))
        at += 10 + number
    return ImageIndex(size=size, block_size=4096, chunk_size=chunk, used=tuple(extents), chunks=tuple(chunks))


@st.composite
def any_index(draw: st.DrawFn) -> ImageIndex:
    blocks = draw(st.integers(1, 100))
    marks = sorted(draw(st.sets(st.integers(0, blocks), max_size=20)))
    return make_index(blocks, [(a, b - a) for a, b in zip(marks[::2], marks[1::2], strict=False)])


@given(any_index())
def test_an_index_survives_and_its_ranges_are_the_extents(index: ImageIndex) -> None:
    assert indexes.read(indexes.write(index)) == index
    used = {first + n for first, count in index.used for n in range(count)}
    found: set[int] = set()
    for number, ranges in enumerate(indexes.used_ranges(index)):
        start, length = indexes.chunk_range(index, number)
        for offset, size in ranges:
            assert 0 <= offset and offset + size <= length and size % 4096 == 0
            blocks = {(start + offset) // 4096 + n for n in range(size // 4096)}
            assert not blocks & found
            found |= blocks
    assert found == used
    assert indexes.used_bytes(index) == len(used) * 4096


@pytest.mark.parametrize(("old", "new", "says"), [
    ('"format":1', '"format":2', "is not known"),
    ('"size":409600', '"size":409601', "multiples"),
    ('"size":409600', '"size":819200', "make 13"),
    ('"block_size":4096', '"block_size":4095', "none of"),
    ('"chunk_size":65536', '"chunk_size":1', "chunk_size"),
    ("[[1,2],[4,5]]", "[[1,2],[2,5]]", "ascend"),
    ("[[1,2],[4,5]]", "[[1,2],[4,500]]", "used[1]"),
    ("[[1,2],[4,5]]", "[[1,2],[4,0]]", "used[1]"),
    ("[[1,2],[4,5]]", "[[1,2,3]]", "first block, count"),
    ('"offset":10,', '"offset":11,', "without a gap"),
    ('"length":10}', '"length":0}', "without a gap"),
    ('"sha256":"0', '"sha256":"g', "hex"),
    ('"used"', '"usd"', "unknown key"),
    ('"format":1', '"format":1,"format":1', "twice"),
])
def test_a_wrong_index_is_refused_with_its_place(old: str, new: str, says: str) -> None:
    text = indexes.write(make_index(100, [(1, 2), (4, 5)])).decode()
    assert old in text
    with pytest.raises(BundleError) as caught:
        indexes.read(text.replace(old, new, 1).encode())
    assert says in str(caught.value)
