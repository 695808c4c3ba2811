"""A disk, its partition table and the four partitions of a node. All sizes and offsets are bytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

BOOT, IMAGE, WORKING, STATE = 1, 2, 3, 4  # partition numbers; the order is that of existing k8r disks
LABELS = {BOOT: "system-boot", IMAGE: "image", WORKING: "writable"}
STATE_LABELS = {"worker": "k8r-state", "control-plane": "masterpersistent"}


@dataclass(frozen=True, kw_only=True)
class Partition:
    """`device` is the node's path (/dev/vda2); `uuid` the table's PARTUUID, lower case."""

    number: int
    start: int
    size: int
    type: str  # GPT type GUID or MBR type byte, as sfdisk prints it
    uuid: str = ""
    name: str = ""
    bootable: bool = False
    device: Path | None = None

    @property
    def end(self) -> int:
        return self.start + self.size


@dataclass(frozen=True, kw_only=True)
class Disk:
    """A whole disk and its table. `id` is the GPT disk GUID (lower case), or `0x…` of an MBR.

    `fault` is what an interrupted write left to be mended ("primary table: …", "backup table: …", "kernel: …"); the
    partitions are good all the same. "" when there is nothing to mend.
    """

    device: Path
    size: int
    sector: int
    table: str  # "gpt" or "dos"
    id: str
    partitions: tuple[Partition, ...]
    fault: str = ""

    def partition(self, number: int) -> Partition | None:
        return next((p for p in self.partitions if p.number == number), None)
