"""Just enough of ext4 for a fake disk: a superblock that real programs' readers accept, and mkfs that can be torn."""

from __future__ import annotations

import functools
import struct
import uuid as uuids

from k8r_agent.model.superblock import OFFSET

BLOCK = 4096
_POLY = 0x82F63B78
TABLES = 2 * BLOCK  # where the fake's "inode tables" lie: one block that names the file system


@functools.lru_cache(maxsize=1 << 16)
def crc32c(data: bytes, crc: int = 0xFFFFFFFF) -> int:
    """As ext4 uses it: not inverted at the end."""
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (_POLY if crc & 1 else 0)
    return crc


def superblock(*, uuid: str, label: str, size: int, mounted: int = 0, last_mount: int = 0) -> bytes:
    """1024 bytes with metadata_csum and metadata_csum_seed; `size` in bytes is cut to whole blocks."""
    raw = bytearray(1024)
    struct.pack_into("<IIIII", raw, 0x00, 1024, size // BLOCK, 0, size // BLOCK // 2, 1000)
    struct.pack_into("<III", raw, 0x14, 0, 2, 2)  # first block, log block size, log cluster size
    struct.pack_into("<III", raw, 0x20, 32768, 32768, 64)  # blocks, clusters, inodes per group
    struct.pack_into("<II", raw, 0x2C, last_mount, 0)
    struct.pack_into("<HhHH", raw, 0x34, mounted, -1, 0xEF53, 1)
    struct.pack_into("<I", raw, 0x4C, 1)  # revision with inode size
    struct.pack_into("<IHH", raw, 0x54, 11, 256, 0)
    struct.pack_into("<III", raw, 0x5C, 0x3C, 0x2 | 0x40 | 0x2000, 0x400 | 0x1)  # compat, incompat, ro_compat
    raw[0x68:0x78] = uuids.UUID(uuid).bytes
    raw[0x78:0x88] = label.encode().ljust(16, b"\0")
    raw[0x175] = 1  # checksum type crc32c
    struct.pack_into("<I", raw, 0x270, crc32c(uuids.UUID(uuid).bytes))
    struct.pack_into("<I", raw, 0x3FC, crc32c(bytes(raw[:0x3FC])))
    return bytes(raw)


def changed(raw: bytes, *, size: int | None = None, mounted: int | None = None,
            last_mount: int | None = None) -> bytes:
    """The same superblock after the kernel wrote to it."""
    new = bytearray(raw)
    if size is not None:
        struct.pack_into("<I", new, 0x04, size // BLOCK)
    if mounted is not None:
        struct.pack_into("<H", new, 0x34, mounted)
    if last_mount is not None:
        struct.pack_into("<I", new, 0x2C, last_mount)
    struct.pack_into("<I", new, 0x3FC, crc32c(bytes(new[:0x3FC])))
    return bytes(new)


def intact(raw: bytes) -> bool:
    return len(raw) == 1024 and struct.unpack_from("<I", raw, 0x3FC)[0] == crc32c(raw[:0x3FC])


def image(size: int, *, uuid: str = "0123abcd-0000-4000-8000-000000000000", label: str = "image",
          fill: bytes = b"k8r!") -> bytes:
    """A golden image of `size` bytes: a superblock and some content after it."""
    body = bytearray((fill * (size // len(fill) + 1))[:size])
    body[:OFFSET] = bytes(OFFSET)
    body[OFFSET:OFFSET + 1024] = superblock(uuid=uuid, label=label, size=size)
    return bytes(body)
