"""An image's transfer form: chunks that unpack alone and together, and nothing lost between used blocks."""

from __future__ import annotations

import hashlib
import io
import lzma
from pathlib import Path

import pytest
import zstandard

from k8r_agent.build import chunks
from k8r_agent.errors import BuildError
from k8r_agent.image import index as index_file

BLOCK = 4096
USED = ((0, 2), (100, 3), (1500, 1))


class Quiet:
    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def step(self, text: str) -> None: ...

    def note(self, text: str) -> None: ...

    def bytes(self, done: int, total: int) -> None:
        self.seen.append((done, total))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """10 MiB, so that the last of three chunks is a short one."""
    path = tmp_path / "image.img"
    with path.open("wb") as file:
        file.truncate(10 << 20)
        for first, count in USED:
            file.seek(first * BLOCK)
            file.write(bytes(range(256)) * (count * BLOCK // 256))
    return path


@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_each_chunk_stands_alone_and_all_together_are_the_image(image: Path, tmp_path: Path, compression: str) -> None:
    out, progress = tmp_path / "out", Quiet()
    packed, index = chunks.pack_image(image, out, used=USED, compression=compression, level=3, progress=progress)
    raw, data = image.read_bytes(), out.read_bytes()
    assert (packed.size, packed.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert (packed.unpacked_size, packed.unpacked_sha256) == (len(raw), hashlib.sha256(raw).hexdigest())
    assert index.chunks[0].offset == 0 and len(index.chunks) == 3
    for number, chunk in enumerate(index.chunks):
        frame = data[chunk.offset:chunk.offset + chunk.length]
        piece = zstandard.ZstdDecompressor().decompress(frame) if compression == "zstd" else frame
        assert piece == raw[number * chunks.CHUNK:(number + 1) * chunks.CHUNK]
        assert hashlib.sha256(piece).hexdigest() == chunk.sha256
    if compression == "zstd":
        stream = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True)
        assert stream.read() == raw
    assert index_file.read(index_file.write(index)) == index
    assert progress.seen[-1] == (len(raw), len(raw))


def test_xz_is_one_stream_that_older_agents_read(image: Path, tmp_path: Path) -> None:
    packed, index = chunks.pack_image(image, tmp_path / "o", used=USED, compression="xz", level=3, progress=Quiet())
    assert lzma.decompress((tmp_path / "o").read_bytes()) == image.read_bytes()
    assert {(c.offset, c.length) for c in index.chunks} == {(0, 0)}
    assert packed.unpacked_size == index.size
    assert index_file.read(index_file.write(index)) == index


def test_the_same_image_packs_to_the_same_bytes(image: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        chunks.pack_image(image, tmp_path / name, used=USED, compression="zstd", level=3, progress=Quiet())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("block", [2, 99, 103, 1501, 2559])
def test_a_block_that_nobody_uses_must_be_zero(image: Path, tmp_path: Path, block: int) -> None:
    with image.open("r+b") as file:
        file.seek(block * BLOCK + 17)
        file.write(b"x")
    with pytest.raises(BuildError, match=f"block {block} is not in use"):
        chunks.pack_image(image, tmp_path / "o", used=USED, compression="none", level=1, progress=Quiet())


@pytest.mark.parametrize("compression", ["zstd", "xz", "none"])
def test_small_files(tmp_path: Path, compression: str) -> None:
    packed = chunks.pack_bytes(b"hello", tmp_path / "o", compression=compression, level=3)
    assert packed.size == (tmp_path / "o").stat().st_size and packed.unpacked_size == 5
    assert packed.unpacked_sha256 == hashlib.sha256(b"hello").hexdigest()
