"""GUID partition tables as bytes: one copy read, one copy built. Pure, no I/O.

Source of the format: UEFI Specification 2.10, chapter 5. Sizes here are in sectors (LBA) where the name says so.
"""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Callable
from dataclasses import dataclass

SIGNATURE = b"EFI PART"
REVISION = 0x00010000
HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")  # 92 bytes
ENTRY = struct.Struct("<16s16sQQQ72s")  # 128 bytes
LEGACY_BOOT = 1 << 2  # attribute bit, "bootable" for a BIOS
TYPE_ESP = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
TYPE_LINUX = "0fc63daf-8483-4772-8e79-3d69d8477de4"
_MAX_ENTRIES = 1024  # libfdisk's and Linux's own bound is far above what anybody uses; this bounds a hostile header


class BadGpt(ValueError):
    """This copy of the table is not to be used; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """`last` is inclusive. GUIDs in lower case."""

    number: int
    type: str
    uuid: str
    first: int
    last: int
    attributes: int = 0
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Gpt:
    """One copy of a table: `here` is the LBA of its header, `other` where it says that the other copy is."""

    id: str
    here: int
    other: int
    first_usable: int
    last_usable: int
    array: int  # LBA of the entry array
    slots: int  # number of entries that the array has room for
    entries: tuple[Entry, ...]

    def same_table(self, other: Gpt) -> bool:
        """Whether both copies describe the same partitions, wherever they themselves lie."""
        def key(gpt: Gpt) -> tuple[object, ...]:
            return gpt.id, gpt.first_usable, gpt.last_usable, gpt.slots, gpt.entries
        return key(self) == key(other)


def array_sectors(slots: int, sector: int) -> int:
    return -(-slots * ENTRY.size // sector)


def parse(read: Callable[[int, int], bytes], here: int, *, sector: int, sectors: int) -> Gpt:
    """Read and check the copy whose header is at LBA `here`; `read(lba, count)` returns sectors.

    Raises BadGpt for every reason for which Linux (block/partitions/efi.c) or UEFI would refuse it.
    """
    raw = read(here, 1)
    (signature, _revision, size, crc, _reserved, my_lba, other, first, last, disk_id, array, slots, entry_size,
     array_crc) = HEADER.unpack_from(raw)
    if signature != SIGNATURE:
        raise BadGpt("no signature")
    if not HEADER.size <= size <= sector:
        raise BadGpt(f"header size {size}")
    if zlib.crc32(raw[:16] + bytes(4) + raw[20:size]) != crc:
        raise BadGpt("checksum of the header")
    if my_lba != here:
        raise BadGpt(f"says that it lies at sector {my_lba}")
    if entry_size != ENTRY.size or not 0 < slots <= _MAX_ENTRIES:
        raise BadGpt(f"{slots} entries of {entry_size} bytes")
    if not 0 < array < sectors or last >= sectors or first > last:
        raise BadGpt("reaches beyond the disk")
    data = read(array, array_sectors(slots, sector))[:slots * ENTRY.size]
    if zlib.crc32(data) != array_crc:
        raise BadGpt("checksum of the entries")
    used = -(-len(data.rstrip(b"\0")) // ENTRY.size)
    entries = tuple(e for n in range(used) if (e := _entry(n + 1, data[n * ENTRY.size:(n + 1) * ENTRY.size])))
    for entry in entries:
        if not first <= entry.first <= entry.last <= last:
            raise BadGpt(f"partition {entry.number} lies outside the usable area")
    return Gpt(id=_guid(disk_id), here=here, other=other, first_usable=first, last_usable=last, array=array,
               slots=slots, entries=entries)


def header_bytes(gpt: Gpt, sector: int) -> bytes:
    data = array_bytes(gpt, sector)[:gpt.slots * ENTRY.size]

    def packed(crc: int) -> bytes:
        return HEADER.pack(SIGNATURE, REVISION, HEADER.size, crc, 0, gpt.here, gpt.other, gpt.first_usable,
                           gpt.last_usable, uuid.UUID(gpt.id).bytes_le, gpt.array, gpt.slots, ENTRY.size,
                           zlib.crc32(data))
    return packed(zlib.crc32(packed(0))).ljust(sector, b"\0")


def array_bytes(gpt: Gpt, sector: int) -> bytes:
    """The entry array, padded to whole sectors. Entries 1 to 4 are the first 512 bytes: one sector."""
    array = bytearray(array_sectors(gpt.slots, sector) * sector)
    for entry in gpt.entries:
        name = entry.name.encode("utf-16-le")[:72]
        ENTRY.pack_into(array, (entry.number - 1) * ENTRY.size, uuid.UUID(entry.type).bytes_le,
                        uuid.UUID(entry.uuid).bytes_le, entry.first, entry.last, entry.attributes, name)
    return bytes(array)


def protective_mbr(old: bytes, sectors: int) -> bytes:
    """Sector 0 of a GPT disk: the boot code of `old` is kept."""
    sector = bytearray(old)
    # CHS 0/0/2 .. 255/255/255, type EE, start 1: exactly what UEFI prescribes and sfdisk writes
    entry = b"\0\0\x02\0\xee\xff\xff\xff" + struct.pack("<II", 1, min(sectors - 1, 0xFFFFFFFF))
    sector[446:512] = entry + bytes(48) + b"\x55\xaa"
    return bytes(sector)


def _entry(number: int, raw: bytes) -> Entry | None:
    kind, unique, first, last, attributes, name = ENTRY.unpack(raw)
    if kind == bytes(16):
        return None
    return Entry(number=number, type=_guid(kind), uuid=_guid(unique), first=first, last=last, attributes=attributes,
                 name=name.decode("utf-16-le", "replace").split("\0")[0])


def _guid(raw: bytes) -> str:
    return str(uuid.UUID(bytes_le=raw))
