"""Three readers of a GPT that share no code with the agent: Linux with `gpt`, UEFI firmware, and GRUB.

Written from block/partitions/efi.c (Linux 6.1), PartitionDxe/Gpt.c (EDK II) and grub-core/partmap/gpt.c (2.06).
"""

from __future__ import annotations

import binascii
import struct

from tests.fakes.medium import Medium

View = tuple[bytes, tuple[tuple[int, bytes, int, int], ...]]  # disk GUID; (number, PARTUUID, first, last)


def _header(medium: Medium, lba: int) -> tuple[int, ...] | None:
    """Fields of a valid header with valid entries at `lba`, else None."""
    raw = medium.read(lba * medium.sector, medium.sector)
    if raw[0:8] != b"EFI PART":
        return None
    size, crc = struct.unpack_from("<II", raw, 12)
    if size < 92 or size > medium.sector or binascii.crc32(raw[:16] + b"\0\0\0\0" + raw[20:size]) != crc:
        return None
    mine, other, first, last = struct.unpack_from("<QQQQ", raw, 24)
    entries, count, width, entries_crc = struct.unpack_from("<QIII", raw, 72)
    end = medium.size // medium.sector - 1
    if mine != lba or first > end or last > end or last < first or width != 128:
        return None
    if binascii.crc32(medium.read(entries * medium.sector, count * width)) != entries_crc:
        return None
    return other, first, last, entries, count


def _view(medium: Medium, lba: int) -> View:
    raw = medium.read(lba * medium.sector, medium.sector)
    entries, count = struct.unpack_from("<QI", raw, 72)
    found = []
    for n in range(count):
        entry = medium.read(entries * medium.sector + n * 128, 128)
        if entry[:16] != bytes(16):
            found.append((n + 1, entry[16:32], *struct.unpack_from("<QQ", entry, 32)))
    return raw[56:72], tuple(found)


def linux(medium: Medium) -> View | None:
    """find_valid_gpt() with force_gpt."""
    end = medium.size // medium.sector - 1
    if _header(medium, 1):
        return _view(medium, 1)
    return _view(medium, end) if _header(medium, end) else None


def uefi(medium: Medium) -> View | None:
    """Needs a protective MBR; primary, else the one in the last sector (which it then copies to the front)."""
    zero = medium.read(0, 512)
    if zero[510:] != b"\x55\xaa" or not any(
            zero[446 + 16 * n + 4] == 0xEE and struct.unpack_from("<I", zero, 446 + 16 * n + 8)[0] == 1
            for n in range(4)):
        return None
    return linux(medium)


def grub(medium: Medium) -> View | None:
    """Believes a primary header with the right signature; checks no sums, never looks at the backup."""
    return _view(medium, 1) if medium.read(medium.sector, 8) == b"EFI PART" else None


def kernel_mbr(medium: Medium) -> tuple[int, tuple[tuple[int, int, int, int], ...]] | None:
    """(disk id, (number, type, first, count)) of a DOS table."""
    zero = medium.read(0, 512)
    if zero[510:] != b"\x55\xaa":
        return None
    parts = []
    for n in range(4):
        kind = zero[446 + 16 * n + 4]
        first, count = struct.unpack_from("<II", zero, 446 + 16 * n + 8)
        if kind and count:
            parts.append((n + 1, kind, first, count))
    return struct.unpack_from("<I", zero, 440)[0], tuple(parts)
