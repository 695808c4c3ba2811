"""Disks as they are right after an image was flashed onto them: two partitions, the image's own IDs."""

from __future__ import annotations

import random
import struct
from pathlib import Path

from k8r_agent.effects import gpt, mbr
from k8r_agent.effects.table import Found, read_table
from k8r_agent.model.layout import Disk
from tests.fakes.medium import Medium

MIB = 1 << 20
IMAGE_ID = "11111111-2222-4333-8444-555555555555"
PART_IDS = ("aaaaaaaa-0001-4000-8000-000000000001", "aaaaaaaa-0002-4000-8000-000000000002")


def flashed_gpt(size: int, *, boot: int = 8 * MIB, image: int = 8 * MIB, sector: int = 512, image_file: int = 0,
                leftovers: bool = False, disk_id: str = IMAGE_ID,
                part_ids: tuple[str, str] = PART_IDS) -> Medium:
    """`image_file`: bytes of the flashed file, which the backup table ends (default: 1 MiB after partition 2).
    `leftovers`: the disk carried data before: random sectors at its end."""
    medium = Medium(size, sector)
    if leftovers:
        dice = random.Random(7)
        for n in range(size // sector - 40, size // sector):
            medium.durable[n] = dice.randbytes(sector)
    end = (image_file or 2 * MIB + boot + image) // sector
    first, middle = MIB // sector, (MIB + boot) // sector
    entries = (
        gpt.Entry(number=1, type=gpt.TYPE_ESP, uuid=part_ids[0], first=first, last=middle - 1, name="system-boot"),
        gpt.Entry(number=2, type=gpt.TYPE_LINUX, uuid=part_ids[1], first=middle, last=middle + image // sector - 1,
                  name="image", attributes=1 << 60))
    length = gpt.array_sectors(128, sector)
    for here, other, array in ((1, end - 1, 2), (end - 1, 1, end - 1 - length)):
        copy = gpt.Gpt(id=disk_id, here=here, other=other, first_usable=2 + length, last_usable=end - length - 2,
                       array=array, slots=128, entries=entries)
        medium.write(array * sector, gpt.array_bytes(copy, sector))
        medium.write(here * sector, gpt.header_bytes(copy, sector))
    boot_code = bytes(range(256)) + bytes(range(184)) + bytes(6)
    medium.write(0, gpt.protective_mbr(boot_code + bytes(sector - 446), end))
    medium.flush()
    medium.epochs, medium.writes = [[]], 0
    return medium


def flashed_mbr(size: int, *, boot: int = 8 * MIB, image: int = 8 * MIB, sector: int = 512) -> Medium:
    medium = Medium(size, sector)
    table = mbr.Mbr(id=0xCAFE0001, entries=(
        mbr.Entry(number=1, type=0x0C, first=MIB // sector, count=boot // sector, bootable=True),
        mbr.Entry(number=2, type=0x83, first=(MIB + boot) // sector, count=image // sector)))
    medium.write(0, mbr.build(struct.pack("<446B", *(n % 251 for n in range(446))) + bytes(sector - 446), table))
    medium.flush()
    medium.epochs, medium.writes = [[]], 0
    return medium


def to_file(medium: Medium, path: Path) -> Path:
    """A sparse file with the same content, for programs that read disks."""
    with path.open("wb") as file:
        file.truncate(medium.size)
        for n, data in {**medium.durable, **medium.pending}.items():
            file.seek(n * medium.sector)
            file.write(data)
    return path


def as_disk(medium: Medium, found: Found | None = None, device: str = "/dev/vda") -> Disk:
    found = found or read_table(medium, sector=medium.sector)
    return Disk(device=Path(device), size=medium.size, sector=medium.sector, table=found.kind, id=found.id,
                partitions=found.partitions, fault=found.fault)
