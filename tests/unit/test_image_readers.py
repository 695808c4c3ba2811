"""Boot archives, streams, superblocks, signatures' envelopes: hostile input gives BundleError and nothing else."""

from __future__ import annotations

import io
import lzma
import os
import random
import tarfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from k8r_agent.errors import BundleError, FetchError, SignatureError, UsageError
from k8r_agent.image import bootassets, signature
from k8r_agent.image.bootassets import assets_digest
from k8r_agent.image.ext4 import Relabel, crc32c
from k8r_agent.image.places import place
from k8r_agent.image.sources import FramedImage, StreamImage
from k8r_agent.image.unpack import PIECE, frame, unpack
from k8r_agent.model.bundle import Artifact
from tests.fakes import ext4
from tests.fakes.assets import files_of
from tests.fakes.bundles import artifact, boot_tar, make_assets, make_image, make_index, pack

ASSETS = make_assets(3)
TAR = boot_tar(ASSETS)


def pieces(data: bytes, size: int = 777) -> Iterator[bytes]:
    return (data[at:at + size] for at in range(0, len(data), size))


def reader(data: bytes, size: int = 5000) -> Callable[[], bytes]:
    stream = io.BytesIO(data)
    return lambda: stream.read(size)


def test_boot_assets_and_their_digest() -> None:
    found = bootassets.read(lambda: pieces(TAR), name="boot.tar")
    assert found == ASSETS and assets_digest(found) == assets_digest(ASSETS)
    for _ in range(2):
        assert files_of(found) == files_of(ASSETS)
    assert [name for name, _ in found.files()] == ["vmlinuz", "initrd.img"], "what nobody reads is skipped"
    assert assets_digest(ASSETS) != assets_digest(make_assets(4))


def tar_of(*members: tuple[str, bytes], kind: bytes = tarfile.REGTYPE, format: int = tarfile.USTAR_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.type, info.linkname = len(data), kind, "/etc/shadow"
            info.mtime = 1.5 if format == tarfile.PAX_FORMAT else 1
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_any_flavour_of_a_flat_tar_is_read(format: int) -> None:
    data = tar_of(("./vmlinuz", b"k"), ("initrd.img", b"i"), format=format)
    found = bootassets.read(lambda: pieces(data), name="boot.tar")
    assert files_of(found) == {"vmlinuz": b"k", "initrd.img": b"i"} and found.cmdline == ""


@pytest.mark.fault(40)
@pytest.mark.parametrize(("data", "says"), [
    (tar_of(("../vmlinuz", b"x")), "not expected"),
    (tar_of(("/vmlinuz", b"x")), "not expected"),
    (tar_of(("boot/vmlinuz", b"x")), "not expected"),
    (tar_of(("vmlinuz", b"x"), ("vmlinuz", b"y")), "twice"),
    (tar_of(("vmlinuz", b"")), "0 bytes"),
    (tar_of(("vmlinuz", b""), kind=tarfile.SYMTYPE), "not a plain file"),
    (tar_of(("vmlinuz", b""), kind=tarfile.LNKTYPE), "not a plain file"),
    (tar_of(("vmlinuz", b""), kind=tarfile.CHRTYPE), "not a plain file"),
    (tar_of(("cmdline", b"x" * 5000)), "5000 bytes"),
    (tar_of(("vmlinuz", b"x")), "no initrd.img"),
    (tar_of(("vmlinuz", b"x"), ("initrd.img", b"y"), ("cmdline", b"a\0b")), "printable"),
    (b"<html>", "cut off"), (bytes(1024), "no vmlinuz"), (b"x" * 1024, "not a tar"), (b"", "cut off"),
    (TAR[:3000], "cut off"),
])
def test_other_archives_are_refused(data: bytes, says: str) -> None:
    with pytest.raises(BundleError) as caught:
        bootassets.read(lambda: pieces(data), name="boot.tar")
    assert says in str(caught.value)


@settings(max_examples=200)
@given(st.integers(0, 511), st.binary(min_size=1, max_size=12))
def test_any_header_is_read_or_a_bundle_error(at: int, junk: bytes) -> None:
    data = bytearray(TAR)
    data[at:at + len(junk)] = junk
    try:
        bootassets.read(lambda: pieces(bytes(data)), name="boot.tar")
    except BundleError:
        pass


@given(st.binary(max_size=2000), st.sampled_from(["xz", "zstd"]))
def test_any_bytes_unpack_or_are_a_bundle_error(data: bytes, compression: str) -> None:
    try:
        b"".join(unpack(reader(data), compression, name="x"))
    except BundleError:
        pass


@settings(max_examples=30)
@given(st.lists(st.binary(max_size=50_000), max_size=4), st.sampled_from(["xz", "zstd", "none"]),
       st.integers(1, 70_000))
def test_streams_and_concatenations_are_unpacked(parts: list[bytes], compression: str, size: int) -> None:
    packed = b"".join(pack(part, compression) for part in parts)
    found = list(unpack(reader(packed, size), compression, name="x"))
    assert b"".join(found) == b"".join(parts) and all(0 < len(piece) <= max(PIECE, size) for piece in found)


def test_padding_between_xz_streams_is_skipped_and_a_cut_is_noticed() -> None:
    one = lzma.compress(b"a" * 1000)
    assert b"".join(unpack(reader(one + bytes(8) + one + bytes(4), 3), "xz", name="x")) == b"a" * 2000
    with pytest.raises(BundleError) as caught:
        list(unpack(reader(one[:-5]), "xz", name="x"))
    assert "cut off" in str(caught.value)


@pytest.mark.fault(40)
def test_a_bomb_is_unpacked_piece_by_piece() -> None:
    for packed, compression in ((lzma.compress(bytes(64 << 20), preset=0), "xz"),
                                (zstandard.ZstdCompressor().compress(bytes(64 << 20)), "zstd")):
        stream = unpack(reader(packed), compression, name="x")
        assert max(len(next(stream)) for _ in range(8)) <= PIECE


def test_xz_that_needs_too_much_memory_is_refused() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 256 << 20}]
    packed = lzma.compress(b"x", filters=filters)
    with pytest.raises(BundleError) as caught:
        list(unpack(reader(packed), "xz", name="x"))
    assert "xz -9" in caught.value.hint


@pytest.mark.parametrize("data", [b"", b"junk", pack(b"x" * 99, "zstd"), pack(b"x" * 101, "zstd"),
                                  pack(b"x" * 100, "zstd")[:-4],
                                  zstandard.ZstdCompressor(write_content_size=False).compress(b"x" * 200)])
def test_a_frame_holds_exactly_its_chunk(data: bytes) -> None:
    assert frame(pack(b"x" * 100, "zstd"), 100, name="x") == b"x" * 100
    assert frame(zstandard.ZstdCompressor(write_content_size=False).compress(b"x" * 100), 100, name="x") == b"x" * 100
    with pytest.raises(BundleError):
        frame(data, 100, name="x")


class Bytes:
    """A Reader over bytes; `second` is what comes when something is asked for again."""

    def __init__(self, data: bytes, second: bytes | None = None) -> None:
        self.data, self.second, self.size = data, second, len(data)

    def read(self, offset: int, length: int) -> bytes:
        return self.data[offset:offset + length]

    def again(self, offset: int, length: int) -> bytes:
        return (self.second or self.data)[offset:offset + length]


IMAGE = make_image(blocks=40, used=((0, 40),))
FRAMES = [pack(IMAGE[at:at + 65536], "zstd") for at in range(0, len(IMAGE), 65536)]


def framed(data: bytes, second: bytes | None = None) -> FramedImage:
    whole = b"".join(FRAMES)
    found = artifact("image", "image.img.zst", whole, IMAGE, "zstd")
    return FramedImage(Bytes(data, second), found, make_index(IMAGE, frames=[len(f) for f in FRAMES]), dear=True)


@pytest.mark.fault(8)
def test_a_chunk_that_came_damaged_is_fetched_once_more() -> None:
    whole = b"".join(FRAMES)
    damaged = whole[:100] + b"\xff" + whole[101:]
    assert b"".join(framed(damaged, whole).chunks()) == IMAGE
    with pytest.raises(BundleError):
        list(framed(damaged).chunks())


def stream(packed: bytes, content: bytes = IMAGE, *, size: int | None = None, indexed: bool = False) -> StreamImage:
    found = artifact("image", "image.img.xz", packed, content, "xz")
    if size is not None:
        found = Artifact(**{**{f: getattr(found, f) for f in found.__dataclass_fields__}, "unpacked_size": size})
    return StreamImage(Bytes(packed), found, make_index(content) if indexed else None)


def test_a_stream_gives_chunks_in_ascending_order_and_may_start_over() -> None:
    source = stream(pack(IMAGE, "xz"), indexed=True)
    assert source.chunk(1) == IMAGE[65536:131072]
    assert source.chunk(2) == IMAGE[131072:]
    assert source.chunk(0) == IMAGE[:65536]


@pytest.mark.parametrize(("packed", "size", "says"), [
    (pack(IMAGE[:-1], "xz"), None, "cut off"),
    (pack(IMAGE + b"x", "xz"), None, "more than"),
    (pack(IMAGE[:-1] + b"x", "xz"), None, "not the file that the manifest lists"),
    (pack(IMAGE, "xz")[:-30], None, "cut off"),
])
def test_a_stream_that_is_not_the_image_is_refused(packed: bytes, size: int | None, says: str) -> None:
    with pytest.raises(BundleError) as caught:
        list(stream(packed, size=size).chunks())
    assert says in f"{caught.value} {caught.value.hint}"


def test_a_superblock_gets_uuid_label_and_a_right_checksum() -> None:
    raw = bytes(1024) + ext4.superblock(uuid=str(uuid.uuid4()), label="image", size=1 << 20) + bytes(2048)
    wanted = uuid.uuid4()
    found = Relabel(raw, uuid=wanted, label="writable")(0, raw)
    assert ext4.intact(found[1024:2048]) and found[1024 + 0x68:1024 + 0x78] == wanted.bytes
    assert found[:1024] == raw[:1024] and found[2048:] == raw[2048:]
    assert Relabel(raw, uuid=wanted, label="writable")(1 << 20, raw) is raw
    assert crc32c(b"123456789") == 0xE3069283 ^ 0xFFFFFFFF


@given(st.binary(min_size=2048, max_size=2048))
def test_other_beginnings_are_refused(raw: bytes) -> None:
    with pytest.raises(BundleError):
        Relabel(raw, uuid=uuid.uuid4(), label="writable")


def test_a_torn_superblock_is_not_copied() -> None:
    raw = bytearray(bytes(1024) + ext4.superblock(uuid=str(uuid.uuid4()), label="image", size=1 << 20))
    raw[1024 + 0x70] ^= 1
    with pytest.raises(BundleError):
        Relabel(bytes(raw), uuid=uuid.uuid4(), label="writable")


@given(st.binary(max_size=200))
def test_no_other_bytes_are_a_signature(data: bytes) -> None:
    class Nothing:
        def run(self, *args: object, **more: object) -> object:
            raise AssertionError("no program may see this")

    for text in (data, b"-----BEGIN SSH SIGNATURE-----\n" + data + b"\n-----END SSH SIGNATURE-----"):
        with pytest.raises(SignatureError):
            signature.verify(Nothing(), b"manifest", text, signers=[])  # type: ignore[arg-type]


@pytest.mark.parametrize("source", ["", "bundle", "ftp://host/", "http://", "http://h/?q", "http://h/#f", "file:///x",
                                    "http://[::1", "https://[x]/", "http://\u2100/"])
def test_a_source_is_a_directory_or_a_prefix(source: str) -> None:
    with pytest.raises(UsageError):
        place(source)


def test_files_of_a_directory_are_plain_files_in_it(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(random.Random(1).randbytes(100))
    (tmp_path / "link").symlink_to("plain")
    os.mkfifo(tmp_path / "fifo")
    found = place(str(tmp_path))
    assert found.small("plain", 100) and found.small("nothing", 100) is None and found.size("plain") == 100
    for name, says in (("link", "it is a link"), ("fifo", "not a plain file")):
        with pytest.raises(FetchError) as caught:
            found.small(name, 100)
        assert says in str(caught.value)
    with pytest.raises(FetchError):
        found.small("plain", 99)
    with pytest.raises(BundleError):
        found.open("plain", 99)
    with pytest.raises(BundleError):
        found.open("nothing", 1)
    found.close()
    with pytest.raises(FetchError):
        place(str(tmp_path / "absent"))
