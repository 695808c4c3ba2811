"""Disk images of virtual nodes, looked at and changed from outside while the node is off."""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.lab.network import run

CHUNK = 4 << 20
EXT_BLOCK = 4096  # of every file system on a node


@dataclass(frozen=True)
class Span:
    """One partition of a disk image; bytes."""

    number: int
    start: int
    size: int
    uuid: str
    name: str


class DiskImage:
    """A raw disk in a sparse file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def copy(self, to: Path, *, size: int = 0) -> DiskImage:
        """A sparse copy, grown to `size` bytes as if flashed to a larger disk."""
        to.parent.mkdir(parents=True, exist_ok=True)
        run("cp", "--sparse=always", "--reflink=auto", str(self.path), str(to))
        if size > to.stat().st_size:
            with to.open("r+b") as file:
                file.truncate(size)
        return DiskImage(to)

    def partitions(self) -> dict[int, Span]:
        table = json.loads(run("/sbin/sfdisk", "--json", str(self.path)))["partitiontable"]
        sector = int(table.get("sectorsize", 512))
        spans = {}
        for entry in table.get("partitions", []):
            number = int(entry["node"].removeprefix(str(self.path)).lstrip("p"))
            spans[number] = Span(number, entry["start"] * sector, entry["size"] * sector,
                                 entry.get("uuid", "").lower(), entry.get("name", ""))
        return spans

    def table(self) -> str:
        """`gpt` or `dos`."""
        return str(json.loads(run("/sbin/sfdisk", "--json", str(self.path)))["partitiontable"]["label"])

    def id(self) -> str:
        return str(json.loads(run("/sbin/sfdisk", "--json", str(self.path)))["partitiontable"]["id"]).lower()

    def digest(self, number: int, *, length: int = 0) -> str:
        """sha256 of a partition, or of its first `length` bytes."""
        span = self.partitions()[number]
        left, digest = length or span.size, hashlib.sha256()
        with self.path.open("rb") as file:
            file.seek(span.start)
            while left:
                data = file.read(min(CHUNK, left))
                digest.update(data)
                left -= len(data)
        return digest.hexdigest()

    def whole_digest(self) -> str:
        with self.path.open("rb") as file:
            digest = hashlib.sha256()
            while data := file.read(CHUNK):
                digest.update(data)
        return digest.hexdigest()

    def flip(self, offset: int) -> None:
        """Another byte there."""
        with self.path.open("rb") as file:
            file.seek(offset)
            old = file.read(1)
        self.write(offset, bytes([old[0] ^ 0xFF]))

    def write(self, offset: int, data: bytes) -> None:
        with self.path.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    # the FAT boot partition, through mtools

    def _fat(self) -> str:
        return f"{self.path}@@{self.partitions()[1].start}"

    def fat_read(self, name: str) -> bytes:
        return subprocess.run(["mtype", "-i", self._fat(), f"::{name}"], check=True, capture_output=True).stdout

    def fat_write(self, name: str, data: bytes) -> None:
        subprocess.run(["mcopy", "-D", "o", "-i", self._fat(), "-", f"::{name}"], check=True, input=data,
                       capture_output=True)

    def fat_names(self, directory: str) -> list[str]:
        done = subprocess.run(["mdir", "-b", "-i", self._fat(), f"::{directory}"], capture_output=True, text=True)
        return [line.rstrip("/").rsplit("/", 1)[-1].removeprefix("::") for line in done.stdout.splitlines() if line]

    def fat_remove(self, name: str) -> None:
        """Nothing happens when there is no such file."""
        subprocess.run(["mdel", "-i", self._fat(), f"::{name}"], capture_output=True)

    def fat_make(self, directory: str) -> None:
        """Nothing happens when there is such a directory."""
        subprocess.run(["mmd", "-D", "s", "-i", self._fat(), f"::{directory}"], capture_output=True)

    def fat_lose(self, name: str) -> None:
        """The clusters of a file or a directory become free, as when a power cut loses that sector of the table."""
        for at, entries in self._fat_chain(name):
            self.write(at, bytes(len(entries)))

    def fat_orphan(self, name: str) -> None:
        """The clusters of a file belong to nobody, as when a power cut loses its name, but not the table."""
        chain = self._fat_chain(name)
        self.fat_remove(name)
        for at, entries in chain:
            self.write(at, entries)

    def _fat_chain(self, name: str) -> list[tuple[int, bytes]]:
        """Where in the tables of a FAT32 the clusters of a file or a directory are, and what is there."""
        clusters = re.findall(r"<(\d+)(?:-(\d+))?>", run("mshowfat", "-i", self._fat(), f"::{name}"))
        assert clusters, f"{name} has no clusters"
        start = self.partitions()[1].start
        found: list[tuple[int, bytes]] = []
        with self.path.open("rb") as file:
            boot = os.pread(file.fileno(), 512, start)
            sector, _, reserved, copies = struct.unpack_from("<HBHB", boot, 11)
            length, = struct.unpack_from("<I", boot, 36)  # of one table
            for table in range(copies):
                for first, last in clusters:
                    at = start + (reserved + table * length) * sector + 4 * int(first)
                    found.append((at, os.pread(file.fileno(), 4 * (int(last or first) - int(first) + 1), at)))
        return found

    def fat_copy(self, to: Path) -> None:
        """The boot partition alone, for a program that takes no offset."""
        span = self.partitions()[1]
        with self.path.open("rb") as file:
            to.write_bytes(os.pread(file.fileno(), span.size, span.start))

    def fat_complaints(self, work: Path) -> str:
        """What fsck.vfat says of the boot partition; "" when all is well."""
        self.fat_copy(work)
        done = subprocess.run(["/usr/sbin/fsck.vfat", "-n", str(work)], capture_output=True, text=True)
        return done.stdout if done.returncode else ""

    # ext4 partitions, through debugfs

    def ext_read(self, number: int, name: str) -> bytes:
        """A file's content; b"" when it does not exist."""
        at = f"{self.path}?offset={self.partitions()[number].start}"
        return subprocess.run(["/sbin/debugfs", "-c", "-R", f"cat {name}", at], capture_output=True).stdout

    def ext_remove(self, number: int, name: str) -> None:
        at = f"{self.path}?offset={self.partitions()[number].start}"
        run("/sbin/debugfs", "-w", "-R", f"rm {name}", at)

    def ext_block(self, number: int, name: str) -> int:
        """Where on the disk a file's first block is; bytes."""
        start = self.partitions()[number].start
        return start + EXT_BLOCK * int(run("/sbin/debugfs", "-c", "-R", f"blocks {name}",
                                           f"{self.path}?offset={start}").split()[0])

    def ext_dump(self, number: int, directory: str, to: Path) -> None:
        to.mkdir(parents=True, exist_ok=True)
        at = f"{self.path}?offset={self.partitions()[number].start}"
        subprocess.run(["/sbin/debugfs", "-c", "-R", f"rdump {directory} {to}", at], capture_output=True)
