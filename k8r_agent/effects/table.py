"""Reading a disk's partition table, and replacing it so that a power cut at any sector leaves the old or the new one.

A GPT exists twice. Linux, with `gpt` on its command line, takes the primary copy and, when that is not valid, the one
in the last sector of the disk; UEFI does the same and then repairs the primary. A freshly flashed disk has its backup
where the image ended, so a torn primary would leave nothing. Hence the order, with a flush and a comparison with the
medium after each step:

1. the new backup at the end of the disk (the primary, still old, is valid and wins);
2. the primary's entries (from here until 3 the primary is not valid: the backup, new, wins);
3. the primary's header: one sector;
4. the protective MBR: one sector, old and new are equally good.

Entries before header, because GRUB believes a primary without looking at its checksums: so GRUB, too, sees the new
PARTUUIDs as soon as Linux does. When the primary is found broken, the backup is left alone until the primary is whole.

sfdisk writes in a similar order but flushes once, at the end: a disk that reorders can then leave neither copy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from k8r_agent.effects import gpt, mbr
from k8r_agent.errors import DiskError, Protected, ReadBackMismatch
from k8r_agent.model.layout import Partition
from k8r_agent.ports.blockdev import BlockDevice

Epoch = tuple[tuple[int, bytes], ...]  # writes (offset, data) between two flushes
_RESCUE = "the disk has no table that can be trusted: look at it with `sfdisk -J` and `sgdisk -v` from a rescue system"


@dataclass(frozen=True, kw_only=True)
class Found:
    """A table as it is on the medium. `fault` as in model.layout.Disk. Exactly one of `gpt` and `mbr` is set."""

    kind: str  # "gpt" or "dos"
    id: str
    partitions: tuple[Partition, ...]
    fault: str = ""
    primary: bool = True  # the primary GPT is valid and is the one that counts
    hybrid: bool = False
    gpt: gpt.Gpt | None = None
    mbr: mbr.Mbr | None = None


def read_table(device: BlockDevice, *, sector: int) -> Found:
    """The table that Linux uses, and what is wrong with its other copy. Raises DiskError when there is none."""
    sectors = device.size // sector
    zero = device.read(0, sector)
    kind = mbr.kind(zero)
    if kind == "dos":
        try:
            return _found_mbr(mbr.parse(zero, sectors=sectors), sector)
        except mbr.BadMbr as error:
            raise DiskError("cannot use the partition table", why=str(error), hint=_RESCUE) from error

    def copy(here: int) -> gpt.Gpt | str:
        try:
            return gpt.parse(lambda lba, count: device.read(lba * sector, count * sector), here, sector=sector,
                             sectors=sectors)
        except gpt.BadGpt as error:
            return str(error)
    first, last = copy(1), copy(sectors - 1)
    if isinstance(first, gpt.Gpt):
        fault = ""
        if first.other != sectors - 1:
            fault = "backup table: not at the end of the disk"
        elif isinstance(last, str):
            fault = f"backup table: {last}"
        elif not first.same_table(last):
            fault = "backup table: differs from the primary one"
        elif kind == "":
            fault = "protective MBR: missing"
        return _found_gpt(first, sector, fault=fault, primary=True, hybrid=kind == "hybrid")
    if isinstance(last, gpt.Gpt):
        return _found_gpt(last, sector, fault=f"primary table: {first}", primary=False, hybrid=kind == "hybrid")
    raise DiskError("the disk has no valid partition table", why=f"primary GPT: {first}; backup GPT: {last}",
                    hint=_RESCUE)


def new_writes(device: BlockDevice, wanted: tuple[Partition, ...], *, new_id: str, sector: int) -> tuple[Epoch, ...]:
    """What to write, in order, to replace the present table. Raises Protected for a change that a table write must
    never make (a start that moves, a partition that vanishes) and DiskError for a table that cannot be."""
    found = read_table(device, sector=sector)
    _check(found, wanted, device.size, sector)
    zero = device.read(0, sector)
    if found.kind == "dos":
        return _mbr_epochs(device, zero, wanted, new_id, sector)
    if found.hybrid:
        raise DiskError("the disk has a hybrid MBR", why="its entries would contradict the new table",
                        hint="give it a protective one (gdisk: x, n, w), then try again")
    primary, backup = _copies(found, wanted, new_id, device.size // sector, sector)
    main = (_at(primary.array, gpt.array_bytes(primary, sector), sector),)
    head = (_at(1, gpt.header_bytes(primary, sector), sector),)
    spare = (_at(backup.array, gpt.array_bytes(backup, sector), sector),
             _at(backup.here, gpt.header_bytes(backup, sector), sector))
    protective = ((0, gpt.protective_mbr(zero, device.size // sector)),)
    if found.primary:
        return spare, main, head, protective
    return main, head, protective, spare


def write_table(device: BlockDevice, wanted: tuple[Partition, ...], *, new_id: str, sector: int,
                point: Callable[[str], None] = lambda name: None) -> Found:
    """Replace the table as described above and return it as read from the medium. What is there already is not
    written again. Raises ReadBackMismatch, before the next step is begun, when the medium does not hold what was
    written.
    """
    device.flush()  # of an agent killed here before: what it wrote can be read, but need not be on the medium
    device.drop_cache()
    for number, epoch in enumerate(new_writes(device, wanted, new_id=new_id, sector=sector), 1):
        missing = [(offset, data) for offset, data in epoch if device.read(offset, len(data)) != data]
        if not missing:
            continue
        point(f"table:{number}:before")
        for offset, data in missing:
            device.write(offset, data)
        point(f"table:{number}:written")
        device.flush()
        device.drop_cache()
        for offset, data in missing:
            if device.read(offset, len(data)) != data:
                raise ReadBackMismatch("the disk does not keep its partition table",
                                       why=f"{len(data)} bytes at offset {offset} read back differently",
                                       hint="the disk is failing or write-protected: replace it")
        point(f"table:{number}:after")
    found = read_table(device, sector=sector)
    if found.fault or {_essence(p) for p in found.partitions} != {_essence(p) for p in wanted}:
        raise ReadBackMismatch("the partition table is not what was written", why=found.fault or "other partitions")
    return found


def _essence(p: Partition) -> tuple[object, ...]:
    """What both kinds of table can hold."""
    return p.number, p.start, p.size, p.type.lower(), p.uuid.lower(), p.bootable


def _check(found: Found, wanted: tuple[Partition, ...], size: int, sector: int) -> None:
    for old in found.partitions:
        new = next((p for p in wanted if p.number == old.number), None)
        if new is None or new.start != old.start or new.size < old.size:
            raise Protected(f"partition {old.number} must stay where it is and may only grow",
                            why="a table write never moves, shrinks or drops a partition")
    end = 0
    for p in sorted(wanted, key=lambda p: p.start):
        if p.start % sector or p.size % sector or p.size <= 0 or p.start < end or p.end > size:
            raise DiskError(f"partition {p.number} does not fit", why=f"{p.start}+{p.size} bytes on {size}, others "
                            f"end at {end}")
        end = p.end


def _copies(found: Found, wanted: tuple[Partition, ...], new_id: str, sectors: int,
            sector: int) -> tuple[gpt.Gpt, gpt.Gpt]:
    old = found.gpt
    assert old is not None
    attributes = {e.number: e.attributes for e in old.entries}
    entries = tuple(
        gpt.Entry(number=p.number, type=p.type.lower(), uuid=p.uuid.lower(), first=p.start // sector,
                  last=p.end // sector - 1, name=p.name,
                  attributes=attributes.get(p.number, 0) & ~gpt.LEGACY_BOOT | (gpt.LEGACY_BOOT if p.bootable else 0))
        for p in sorted(wanted, key=lambda p: p.number))
    length, last = gpt.array_sectors(old.slots, sector), sectors - 1
    primary = gpt.Gpt(id=new_id.lower(), here=1, other=last, first_usable=old.first_usable,
                      last_usable=last - length - 1, array=old.array if found.primary else 2, slots=old.slots,
                      entries=entries)
    if any(e.last > primary.last_usable or e.number > old.slots for e in entries):
        raise DiskError("the partitions leave no room for the backup table", why=f"it needs {length + 1} sectors")
    if not 2 <= primary.array <= old.first_usable - length:
        raise DiskError("the primary table lies in an unusual place", why=f"entries at sector {primary.array}")
    return primary, replace(primary, here=last, other=1, array=last - length)


def _mbr_epochs(device: BlockDevice, zero: bytes, wanted: tuple[Partition, ...], new_id: str,
                sector: int) -> tuple[Epoch, ...]:
    entries = tuple(mbr.Entry(number=p.number, type=int(p.type, 16), first=p.start // sector, count=p.size // sector,
                              bootable=p.bootable) for p in wanted)
    if any(e.first + e.count > 1 << 32 for e in entries):
        raise DiskError("a DOS partition table ends at 2^32 sectors", why="a partition would reach beyond",
                        hint="flash an image with a GPT to use the whole disk")
    table = ((0, mbr.build(zero, mbr.Mbr(id=int(new_id, 16), entries=entries))),)
    # The backup of a GPT that this disk had in another life: with `gpt` on the command line Linux would prefer it.
    last = device.size - sector
    if device.read(last, 8) == gpt.SIGNATURE and all(p.end <= last for p in wanted):
        return table, ((last, bytes(sector)),)
    return (table,)


def _at(lba: int, data: bytes, sector: int) -> tuple[int, bytes]:
    return lba * sector, data


def _found_gpt(copy: gpt.Gpt, sector: int, *, fault: str, primary: bool, hybrid: bool) -> Found:
    partitions = tuple(
        Partition(number=e.number, start=e.first * sector, size=(e.last - e.first + 1) * sector, type=e.type,
                  uuid=e.uuid, name=e.name, bootable=bool(e.attributes & gpt.LEGACY_BOOT)) for e in copy.entries)
    return Found(kind="gpt", id=copy.id, partitions=partitions, fault=fault, primary=primary, hybrid=hybrid, gpt=copy)


def _found_mbr(table: mbr.Mbr, sector: int) -> Found:
    partitions = tuple(
        Partition(number=e.number, start=e.first * sector, size=e.count * sector, type=f"{e.type:x}",
                  uuid=f"{table.id:08x}-{e.number:02x}", bootable=e.bootable) for e in table.entries)
    return Found(kind="dos", id=f"0x{table.id:08x}", partitions=partitions, mbr=table)
