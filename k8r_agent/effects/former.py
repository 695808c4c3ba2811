"""The state partition of an earlier life of a disk: flashing leaves it where it is, but not the table that says where.

What flashing leaves of that is the backup GPT in the last sector of the disk, until the first table write replaces it.
A disk with a DOS table has none, and one that is larger now has it somewhere else: there a superblock is looked for
where a state partition of a usual size would have begun (partitioning.former_starts).
"""

from __future__ import annotations

from dataclasses import replace

from k8r_agent.effects import gpt
from k8r_agent.model import superblock
from k8r_agent.model.layout import IMAGE, STATE, STATE_LABELS, Disk, Partition
from k8r_agent.model.partitioning import ALIGN, former_starts, state_at, usable_end
from k8r_agent.ports.blockdev import BlockDevice


def find(device: BlockDevice, disk: Disk, *, known: tuple[int, int] | None) -> Partition | None:
    """As the port Disks.former_state says; `device` is the whole disk. Raises DiskError for what cannot be read: it
    need not be empty."""
    places = ((known and state_at(disk, *known)), _in_backup(device, disk))
    named = (_recognised(device, disk, place) for place in places if place)
    return next(filter(None, named), None) or _probed(device, disk)


def _in_backup(device: BlockDevice, disk: Disk) -> Partition | None:
    sector = disk.sector
    sectors = disk.size // sector
    try:
        table = gpt.parse(lambda lba, count: device.read(lba * sector, count * sector), sectors - 1, sector=sector,
                          sectors=sectors)
    except gpt.BadGpt:
        return None
    entry = next((e for e in table.entries if e.number == STATE and e.name in STATE_LABELS.values()), None)
    if entry is None:
        return None
    return replace(state_at(disk, entry.first * sector, (entry.last - entry.first + 1) * sector), name=entry.name)


def _recognised(device: BlockDevice, disk: Disk, place: Partition) -> Partition | None:
    """With the label of the ext4 there, also of one of which only a copy of its superblock is left; None when there is
    none, or when the flashing reached it."""
    image = disk.partition(IMAGE)
    if image is None or place.start < image.end or place.end > disk.size or place.size < ALIGN:
        return None

    def read(offset: int, length: int) -> bytes:
        return device.read(place.start + offset, length)
    found = superblock.parse(read(superblock.OFFSET, superblock.LENGTH)) or superblock.find_copy(read, place.size)
    return replace(place, name=found.label or place.name) if found else None


def _probed(device: BlockDevice, disk: Disk) -> Partition | None:
    """Of several the one that was in use last: the others are of lives before that."""
    best, when = None, -1
    for start in former_starts(disk):
        raw = device.read(start + superblock.OFFSET, superblock.LENGTH)
        found = superblock.parse(raw)
        if found is None or superblock.group(raw) or found.label not in STATE_LABELS.values():
            continue
        size = -(-found.size // ALIGN) * ALIGN  # mke2fs may have left a little of the partition unused
        if 0 < size <= usable_end(disk) - start and found.last_mount > when:
            best, when = replace(state_at(disk, start, size), name=found.label), found.last_mount
    return best
