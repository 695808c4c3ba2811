"""Where a node's partitions go: the table that the first boot wants on a freshly flashed disk. Pure; bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from k8r_agent.errors import DiskError, DiskTooSmall
from k8r_agent.model.layout import BOOT, IMAGE, LABELS, STATE, STATE_LABELS, WORKING, Disk, Partition
from k8r_agent.model.units import format_size

ALIGN = 1 << 20
TYPE_LINUX = {"gpt": "0fc63daf-8483-4772-8e79-3d69d8477de4", "dos": "83"}
GPT_TAIL = 1 << 20  # backup table; on a DOS disk kept free as well, a stale one of another life may lie there
MBR_SECTORS = 1 << 32  # first sector and length are 32-bit numbers
_GRID = 128 << 20  # sizes of state partitions, and of virtual disks, are multiples of this nearly always
_PROBES = 8192  # 1 TiB from each end of the disk


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A table to be written once. `id` differs from the disk's only when the disk was never partitioned by us."""

    id: str
    partitions: tuple[Partition, ...]
    note: str = ""


def plan(disk: Disk, *, image_size: int, state_size: int, role: str, new_id: Callable[[], str],
         former: Partition | None = None) -> Layout | None:
    """The whole table wanted on `disk`; None when working and state partition are there already.

    Image slot grown to `image_size`, state partition of `state_size` at the end of the disk (so that it is found
    again when the disk is flashed anew), everything between for the working slot. Starts are kept. `new_id` returns
    a random UUID: a disk that had only the two partitions of its image gets a new GUID and new PARTUUIDs, because
    every disk flashed from that image carries the same ones. `former`: a state partition of another life of this disk,
    which stays where it is and as it is.

    Raises DiskTooSmall with the number of bytes missing, DiskError for a disk that is not a node's.
    """
    boot, image = disk.partition(BOOT), disk.partition(IMAGE)
    if boot is None or image is None:
        raise DiskError(f"{disk.device} is not a node's disk", hint="flash a k8r image onto it",
                        why="partitions 1 (boot) and 2 (image) are not both there")
    working, state = disk.partition(WORKING), disk.partition(STATE)
    if working is not None and state is not None:
        return None
    others = [p.start for p in disk.partitions if p.number > STATE and p.start > image.start]
    end = min([usable_end(disk), *others])
    if working is None:
        if state is None and former is not None:
            state = state_at(disk, former.start, former.size)
        end = state.start if state is not None else end
        image, working, state = _divide(disk, image_size, state_size, image, state, end)
    else:
        state = _after(disk, working, state_size, end)
    wanted = _renamed(disk, (boot, image, working, state), role)
    wanted = (*wanted, *(p for p in disk.partitions if p.number > STATE))
    fresh = disk.partition(WORKING) is None and disk.partition(STATE) is None
    return _identified(disk, wanted, new_id, fresh=fresh)


def _divide(disk: Disk, image_size: int, state_size: int, image: Partition, state: Partition | None,
            end: int) -> tuple[Partition, Partition, Partition]:
    image_end = max(image.end, _up(image.start + image_size))
    image = replace(image, size=image_end - image.start)
    state_size = _up(state_size) if state is None else 0
    needed = _up(image.end) + image.size + state_size  # working takes any image that the image slot takes
    if needed > end:
        short = needed - end
        raise DiskTooSmall(
            f"{disk.device} is {short} bytes ({format_size(short)}) too small",
            why=f"boot partition, twice {format_size(image.size)} for image and working slot and "
                f"{format_size(state_size)} for state need {needed} bytes; {end} of {disk.size} can be used"
                f"{', where a state partition begins' if state else ''}",
            hint="use a larger disk, or set smaller disk.image_size and disk.state_size in k8r.toml "
                 "(an image slot must have room for every later release)")
    if state is None:
        state = _linux(disk, STATE, end - state_size, state_size)
    start = _up(image.end)
    return image, _linux(disk, WORKING, start, end - state_size - start), state


def _after(disk: Disk, working: Partition, size: int, end: int) -> Partition:
    """A state partition behind the last one, for a disk of older k8r that has none."""
    start, size = _up(working.end), _up(size)
    if start + size > end:
        short = start + size - end
        raise DiskTooSmall(f"{disk.device} is {short} bytes ({format_size(short)}) too small for a state partition",
                           why=f"the working slot ends at {working.end} of {disk.size}",
                           hint="back up the node and flash it anew")
    return _linux(disk, STATE, start, size)


def state_at(disk: Disk, start: int, size: int) -> Partition:
    """The entry for a state partition that is there already."""
    return _linux(disk, STATE, start, size)


def former_starts(disk: Disk) -> tuple[int, ...]:
    """Where a state partition of another life of `disk` may begin that no table names: its size was a multiple of
    128 MiB, and it reached to the end of the disk, which was where it is now or, before the disk grew, at a multiple
    of 128 MiB. In bytes, ascending; at most some 16,000, so that a slow disk is done in minutes."""
    image = disk.partition(IMAGE)
    first, end = _up(image.end if image else 0), usable_end(disk)
    now = range(end - _GRID, first - 1, -_GRID)[:_PROBES]
    before = range(-(-(first + GPT_TAIL) // _GRID) * _GRID - GPT_TAIL, end, _GRID)[:_PROBES]
    return tuple(sorted({*now, *before}))


def _linux(disk: Disk, number: int, start: int, size: int) -> Partition:
    return Partition(number=number, start=start, size=size, type=TYPE_LINUX[disk.table])


def _renamed(disk: Disk, partitions: tuple[Partition, ...], role: str) -> tuple[Partition, ...]:
    if disk.table == "dos":  # no names there
        return partitions
    names = {**LABELS, STATE: state_label(role)}
    return tuple(p if disk.partition(p.number) else replace(p, name=names[p.number]) for p in partitions)


def state_label(role: str) -> str:
    """Name of the state partition and label of its file system."""
    return STATE_LABELS[role]


def _identified(disk: Disk, wanted: tuple[Partition, ...], new_id: Callable[[], str], *, fresh: bool) -> Layout:
    note = ""
    if disk.table == "dos":
        number = (int(new_id().replace("-", ""), 16) % 0xFFFFFFFE + 1) if fresh else int(disk.id, 16)
        parts = tuple(replace(p, uuid=f"{number:08x}-{p.number:02x}") for p in wanted)
        if disk.size > MBR_SECTORS * disk.sector:
            rest = disk.size - MBR_SECTORS * disk.sector
            note = (f"a DOS partition table reaches {format_size(MBR_SECTORS * disk.sector)}: the last {rest} bytes "
                    f"({format_size(rest)}) of {disk.device} stay unused; an image with a GPT would use them")
        return Layout(id=f"0x{number:08x}", partitions=parts, note=note)
    parts = tuple(replace(p, uuid=new_id()) if fresh or not p.uuid else p for p in wanted)
    return Layout(id=new_id() if fresh else disk.id, partitions=parts, note=note)


def usable_end(disk: Disk) -> int:
    """Behind the last byte that a partition may have."""
    size = disk.size if disk.table == "gpt" else min(disk.size, MBR_SECTORS * disk.sector)
    return _down(size - GPT_TAIL)


def _up(value: int) -> int:
    return -(-value // ALIGN) * ALIGN


def _down(value: int) -> int:
    return value // ALIGN * ALIGN
