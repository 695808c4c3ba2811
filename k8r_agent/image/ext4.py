"""A new UUID and label for a copied ext4, patched into its superblocks on the way. Pure.

With `metadata_csum_seed` the checksums of all other metadata do not depend on the UUID, so nothing but superblocks
changes. Source of the offsets: Documentation/filesystems/ext4/super.rst of Linux.
"""

from __future__ import annotations

import struct
import uuid as uuids

from k8r_agent.errors import BundleError

SUPERBLOCK, LENGTH = 1024, 1024  # bytes: the primary's place, and its size
_MAGIC = 0xEF53
_COMPAT, _INCOMPAT, _RO_COMPAT = 0x5C, 0x60, 0x64
_UUID, _LABEL, _BACKUPS, _CHECKSUM = 0x68, 0x78, 0x24C, 0x3FC
_SPARSE_SUPER2, _CSUM_SEED = 0x200, 0x2000
_SPARSE_SUPER, _GDT_CSUM, _METADATA_CSUM = 0x1, 0x10, 0x400


class Relabel:
    """`first` is the beginning of the image, at least 2048 bytes. Raises BundleError when it is no ext4 whose UUID
    can be changed without rewriting its metadata."""

    def __init__(self, first: bytes, *, uuid: uuids.UUID, label: str) -> None:
        self._uuid, self._label = uuid.bytes, label.encode("ascii").ljust(16, b"\0")
        raw = first[SUPERBLOCK:SUPERBLOCK + LENGTH]
        if len(raw) < LENGTH or struct.unpack_from("<H", raw, 0x38)[0] != _MAGIC:
            raise BundleError("the image is not an ext4 file system")
        seeded = _word(raw, _INCOMPAT) & _CSUM_SEED
        if _word(raw, _RO_COMPAT) & (_METADATA_CSUM | _GDT_CSUM) and not seeded:
            raise BundleError("the file system of the image cannot be given a UUID of its own",
                              why="its checksums depend on the UUID",
                              hint="build it with the feature metadata_csum_seed")
        self._checksums = bool(_word(raw, _RO_COMPAT) & _METADATA_CSUM)
        if self._checksums and crc32c(raw[:_CHECKSUM]) != _word(raw, _CHECKSUM):
            raise BundleError("the superblock of the image is damaged", why="its checksum is wrong")
        self._places = frozenset(_places(raw))

    def __call__(self, offset: int, data: bytes) -> bytes:
        """`data` of the image, as it is to be written; the very same object when nothing in it changes."""
        inside = [place - offset for place in self._places if offset <= place <= offset + len(data) - LENGTH]
        patched = data
        for at in inside:
            raw = data[at:at + LENGTH]
            if struct.unpack_from("<H", raw, 0x38)[0] == _MAGIC:
                patched = patched[:at] + self._patch(raw) + patched[at + LENGTH:]
        return patched

    def _patch(self, raw: bytes) -> bytes:
        new = bytearray(raw)
        new[_UUID:_UUID + 16] = self._uuid
        new[_LABEL:_LABEL + 16] = self._label
        if self._checksums:
            struct.pack_into("<I", new, _CHECKSUM, crc32c(bytes(new[:_CHECKSUM])))
        return bytes(new)


def _places(raw: bytes) -> list[int]:
    """Offsets of the superblock and its copies, bytes."""
    block = 1024 << min(_word(raw, 0x18), 6)
    per_group, first = max(_word(raw, 0x20), 1), _word(raw, 0x14)
    blocks = _word(raw, 0x04) | (_word(raw, 0x150) << 32 if _word(raw, _INCOMPAT) & 0x80 else 0)
    groups = -(-(blocks - first) // per_group)
    if _word(raw, _COMPAT) & _SPARSE_SUPER2:
        backups = [group for group in struct.unpack_from("<2I", raw, _BACKUPS) if group]
    elif _word(raw, _RO_COMPAT) & _SPARSE_SUPER:
        backups = sorted({1} | {base**power for base in (3, 5, 7) for power in range(1, 24)})
    else:
        backups = list(range(1, min(groups, 1 << 20)))
    return [SUPERBLOCK] + [(group * per_group + first) * block for group in backups if group < groups]


def _word(raw: bytes, at: int) -> int:
    return int(struct.unpack_from("<I", raw, at)[0])


def crc32c(data: bytes) -> int:
    """As ext4 stores it: seeded with ~0, not inverted at the end."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc


def _entry(value: int) -> int:
    for _ in range(8):
        value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    return value


_TABLE = tuple(_entry(byte) for byte in range(256))
