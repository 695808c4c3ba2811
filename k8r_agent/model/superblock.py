"""What an ext4 superblock says, as far as the agent decides by it. Pure.

Source of the offsets: Documentation/filesystems/ext4/super.rst of Linux.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable
from dataclasses import dataclass

OFFSET, LENGTH = 1024, 1024
_MAGIC = 0xEF53
_64BIT = 0x80
_GROUPS = (1, 3, 5, 7, 9, 25, 27, 49)  # the first that hold a copy of the superblock (sparse_super)


@dataclass(frozen=True, kw_only=True)
class Superblock:
    """`size` in bytes; `tail` is how many bytes of a partition resize2fs may leave unused, because a last block group
    that would hold little more than its own tables is not made."""

    uuid: str
    label: str
    block_size: int
    size: int
    tail: int
    mounted: int  # times mounted since the last check
    last_mount: int  # seconds since the epoch; survives a check

    @property
    def never_used(self) -> bool:
        """mkfs made it and nobody ever mounted it read-write."""
        return self.mounted == 0 and self.last_mount == 0


def parse(raw: bytes) -> Superblock | None:
    """From the LENGTH bytes at OFFSET of a device; None when it is no ext2/3/4. The checksum is not looked at: a torn
    superblock must not pass for an empty partition."""
    if len(raw) < LENGTH or struct.unpack_from("<H", raw, 0x38)[0] != _MAGIC:
        return None
    def word(offset: int) -> int:
        return int(struct.unpack_from("<I", raw, offset)[0])

    def half(offset: int) -> int:
        return int(struct.unpack_from("<H", raw, offset)[0])
    block_size = 1024 << min(word(0x18), 6)
    blocks = word(0x04) | (word(0x150) << 32 if word(0x60) & _64BIT else 0)
    groups = -(-blocks // max(word(0x20), 1))
    descriptors = -(-groups * max(half(0xFE), 32) // block_size)
    tables = word(0x28) * max(half(0x58), 128) // block_size
    # resize2fs adjust_fs_info(): 2 bitmaps, inode table, superblock, descriptors, reserved descriptors, 50 blocks
    tail = (2 + tables + 1 + descriptors + 1 + half(0xCE) + 50) * block_size
    return Superblock(uuid=str(uuid.UUID(bytes=raw[0x68:0x78])), block_size=block_size, size=blocks * block_size,
                      label=raw[0x78:0x88].split(b"\0")[0].decode("utf-8", "replace"), tail=tail,
                      mounted=half(0x34), last_mount=word(0x2C) | raw[0x275] << 32)


def group(raw: bytes) -> int:
    """The block group that a copy says it lies in; 0 for the first superblock."""
    return int(struct.unpack_from("<H", raw, 0x5A)[0])


def find_copy(read: Callable[[int, int], bytes], size: int) -> Superblock | None:
    """A copy of the superblock, where mke2fs puts them: in the first block of some groups. `read(offset, length)` and
    `size` are of the device that the file system is on, in bytes."""
    for block in (4096, 1024, 2048):
        for number in _GROUPS:
            at = number * 8 * block * block + (block if block == 1024 else 0)
            if at + LENGTH > size:
                break
            data = read(at, LENGTH)
            found = parse(data)
            if found and group(data) == number and found.block_size == block:
                return found
    return None
