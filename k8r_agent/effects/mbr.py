"""DOS partition tables as bytes: sector 0 and nothing else. Pure, no I/O."""

from __future__ import annotations

import struct
from dataclasses import dataclass

ENTRY = struct.Struct("<B3sB3sII")
MAGIC = b"\x55\xaa"
PROTECTIVE, LINUX = 0xEE, 0x83
EXTENDED = frozenset({0x05, 0x0F, 0x85})
BOOTABLE = 0x80
_ANYWHERE = b"\xfe\xff\xff"  # CHS address "beyond what CHS can say"; every reader of today uses the sectors


class BadMbr(ValueError):
    """Sector 0 is not a table this agent would write to; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    number: int
    type: int
    first: int  # sectors
    count: int
    bootable: bool = False


@dataclass(frozen=True, kw_only=True)
class Mbr:
    id: int
    entries: tuple[Entry, ...]


def kind(sector0: bytes) -> str:
    """"protective" (a GPT follows), "hybrid" (a GPT beside real entries), "dos", or "" for no table at all."""
    if sector0[510:512] != MAGIC:
        return ""
    types = [sector0[446 + 16 * n + 4] for n in range(4)]
    if PROTECTIVE in types:
        return "protective" if sum(t != 0 for t in types) == 1 else "hybrid"
    return "dos" if any(types) and all(sector0[446 + 16 * n] in (0, BOOTABLE) for n in range(4)) else ""


def parse(sector0: bytes, *, sectors: int) -> Mbr:
    """Raises BadMbr. Logical partitions are refused: a node has four primary ones."""
    if kind(sector0) != "dos":
        raise BadMbr("no DOS partition table")
    entries = []
    for n in range(4):
        flags, _, code, _, first, count = ENTRY.unpack_from(sector0, 446 + 16 * n)
        if code in EXTENDED:
            raise BadMbr(f"partition {n + 1} is an extended one")
        if code == 0 or count == 0:
            continue
        if first == 0 or first + count > sectors:
            raise BadMbr(f"partition {n + 1} reaches beyond the disk")
        entries.append(Entry(number=n + 1, type=code, first=first, count=count, bootable=flags == BOOTABLE))
    return Mbr(id=struct.unpack_from("<I", sector0, 440)[0], entries=tuple(entries))


def build(old: bytes, mbr: Mbr) -> bytes:
    """Sector 0 with the boot code of `old`."""
    sector = bytearray(old)
    struct.pack_into("<I", sector, 440, mbr.id)
    sector[446:510] = bytes(64)
    for entry in mbr.entries:
        flags = BOOTABLE if entry.bootable else 0
        ENTRY.pack_into(sector, 446 + 16 * (entry.number - 1), flags, _ANYWHERE, entry.type, _ANYWHERE, entry.first,
                        entry.count)
    sector[510:512] = MAGIC
    return bytes(sector)
