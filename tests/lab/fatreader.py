"""Reads files from a FAT file system, damaged or not, as a boot loader would. Written from Microsoft's fatgen103;
shares no code with the agent, Linux or mtools. Names are folded to lower case, as every FAT reader compares them.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

LONG, DIRECTORY, VOLUME = 0x0F, 0x10, 0x08
DEPTH = 6


@dataclass(frozen=True)
class Found:
    cluster: int
    size: int


class NoFat(Exception):
    pass


class Fat:
    """`files`: path → where it begins. A chain that ends too early or runs into the void makes a file unreadable;
    a directory is read as far as its chain goes. `file` is an open descriptor of the partition."""

    def __init__(self, file: int, like: Fat | None = None) -> None:
        """`like`: one that was read before; what it knows about the table is taken over where that is the same."""
        self._file = file
        boot = os.pread(file, 512, 0)
        if boot[510:] != b"\x55\xaa":
            raise NoFat("no boot sector")
        self._sector, per, reserved, copies, root_entries, total = struct.unpack_from("<HBHBHH", boot, 11)
        short, = struct.unpack_from("<H", boot, 22)
        large, long, _, _, root = struct.unpack_from("<IIHHI", boot, 32)
        if self._sector not in (512, 1024, 2048, 4096) or not per or not copies or not (short or long):
            raise NoFat("no BIOS parameter block")
        length = (short or long) * self._sector
        root_sectors = -(-root_entries * 32 // self._sector)
        data = reserved + copies * (short or long) + root_sectors
        self.cluster = per * self._sector
        self.clusters = ((total or large) - data) // per
        if self.clusters < 4085:
            raise NoFat("FAT12")
        self._data = data * self._sector
        table = os.pread(file, length, reserved * self._sector)
        self._wide = self.clusters >= 65525
        self._table = table
        self._chains: dict[int, list[tuple[int, int]]] = like._chains if like and like._table == table else {}
        self._next = memoryview(table).cast("I" if self._wide else "H")  # little-endian, as this machine is
        self.files: dict[str, Found] = {}
        self.directories: set[str] = set()
        if self._wide:
            top = b"".join(os.pread(file, size, at) for at, size in self.extents(root))
        else:
            top = os.pread(file, root_entries * 32, (data - root_sectors) * self._sector)
        self._walk(top, "", DEPTH)

    def chain(self, cluster: int) -> Iterator[int]:
        end = 0x0FFFFFF8 if self._wide else 0xFFF8
        for _ in range(self.clusters):
            if not 2 <= cluster < self.clusters + 2:
                return
            yield cluster
            cluster = self._next[cluster] & 0x0FFFFFFF
            if cluster >= end:
                return

    def extents(self, cluster: int) -> list[tuple[int, int]]:
        """(offset, bytes) of a chain."""
        if cluster in self._chains:
            return self._chains[cluster]
        found: list[tuple[int, int]] = []
        for number in self.chain(cluster):
            at = self._data + (number - 2) * self.cluster
            if found and sum(found[-1]) == at:
                found[-1] = (found[-1][0], found[-1][1] + self.cluster)
            else:
                found.append((at, self.cluster))
        self._chains[cluster] = found
        return found

    def _walk(self, raw: bytes, prefix: str, depth: int) -> None:
        long: dict[int, bytes] = {}
        for at in range(0, len(raw) - 31, 32):
            entry = raw[at:at + 32]
            if entry[0] == 0:
                return
            if entry[0] == 0xE5:
                long = {}
            elif entry[11] & 0x3F == LONG:
                if entry[0] & 0x40:
                    long = {}
                long[entry[0] & 0x3F] = entry[1:11] + entry[14:26] + entry[28:32] + entry[13:14]
            elif not entry[11] & VOLUME:
                name = _long_name(long, entry[:11]) or _short_name(entry)
                long = {}
                high, low, size = *struct.unpack_from("<H", entry, 20), *struct.unpack_from("<HI", entry, 26)
                cluster = (high << 16 if self._wide else 0) | low
                if name in (".", ".."):
                    continue
                if entry[11] & DIRECTORY:
                    self.directories.add(prefix + name)
                    if depth:
                        inner = b"".join(os.pread(self._file, n, o) for o, n in self.extents(cluster))
                        self._walk(inner, f"{prefix}{name}/", depth - 1)
                else:
                    self.files[prefix + name] = Found(cluster, size)

    def read(self, path: str) -> bytes | None:
        """None when it is not there or cannot be read to its end."""
        found = self.files.get(path.lower())
        if found is None:
            return None
        if found.size == 0:
            return b""
        extents = self.extents(found.cluster)
        if sum(size for _, size in extents) < found.size:
            return None
        return b"".join(os.pread(self._file, size, at) for at, size in extents)[:found.size]


def _checksum(short: bytes) -> int:
    value = 0
    for byte in short:
        value = ((value & 1) << 7 | value >> 1) + byte & 0xFF
    return value


def _long_name(parts: dict[int, bytes], short: bytes) -> str:
    """"" when the parts do not belong to this entry."""
    if not parts or sorted(parts) != list(range(1, len(parts) + 1)):
        return ""
    if any(part[26] != _checksum(short) for part in parts.values()):
        return ""
    name = b"".join(parts[n][:26] for n in sorted(parts)).decode("utf-16-le", "replace")
    return name.split("\0")[0].lower()


def _short_name(entry: bytes) -> str:
    base, extension = entry[:8].rstrip().decode("latin-1"), entry[8:11].rstrip().decode("latin-1")
    return (f"{base}.{extension}" if extension else base).lower()
