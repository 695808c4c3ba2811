"""A table is replaced: whatever sector a power cut hits, every reader sees the old table or the new one."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest

from k8r_agent.effects.table import new_writes, read_table, write_table
from k8r_agent.errors import DiskError, Protected, ReadBackMismatch
from k8r_agent.model.partitioning import Layout, plan
from tests.fakes import tablereader
from tests.fakes.flashed import MIB, as_disk, flashed_gpt, flashed_mbr
from tests.fakes.medium import Medium, cuts

SIZE = 64 * MIB


def ids(tag: int) -> Callable[[], str]:
    counter = itertools.count(1)
    return lambda: f"{tag:08x}-0000-4000-8000-{next(counter):012x}"


def wanted(medium: Medium, tag: int = 0xBEEF) -> Layout:
    layout = plan(as_disk(medium), image_size=12 * MIB, state_size=4 * MIB, role="worker", new_id=ids(tag))
    assert layout is not None
    return layout


def converge(medium: Medium, tag: int) -> None:
    """What the step partition-disk does, run again after an interruption."""
    disk = as_disk(medium)
    layout = plan(disk, image_size=12 * MIB, state_size=4 * MIB, role="worker", new_id=ids(tag))
    if layout is None and disk.fault:
        layout = Layout(id=disk.id, partitions=disk.partitions)
    if layout is not None:
        write_table(medium, layout.partitions, new_id=layout.id, sector=medium.sector)


def stale_backup(medium: Medium) -> None:
    """The end of the disk still has the valid backup table of the disk's previous life."""
    other = medium.copy()
    layout = wanted(other, tag=0xDEAD)
    write_table(other, layout.partitions, new_id=layout.id, sector=other.sector)
    last = other.size // other.sector
    for n in range(last - 33, last):
        medium.durable[n] = other._at(n)


GPT_DISKS: dict[str, Callable[[], Medium]] = {
    "flashed onto an empty disk": lambda: flashed_gpt(SIZE),
    "flashed onto a used disk": lambda: flashed_gpt(SIZE, leftovers=True),
    "image exactly as large as the disk": lambda: flashed_gpt(SIZE, image_file=SIZE),
    "4096-byte sectors": lambda: flashed_gpt(SIZE, sector=4096),
    "4096-byte sectors, used disk": lambda: flashed_gpt(SIZE, sector=4096, leftovers=True),
}


def with_stale_backup() -> Medium:
    medium = flashed_gpt(SIZE)
    stale_backup(medium)
    return medium


GPT_DISKS["valid backup of a former life at the end"] = with_stale_backup


def recorded(before: Medium) -> tuple[Medium, list[list[tuple[int, bytes]]]]:
    after = before.copy()
    layout = wanted(after)
    write_table(after, layout.partitions, new_id=layout.id, sector=after.sector)
    return after, after.epochs


@pytest.mark.fault(28)
@pytest.mark.parametrize("name", GPT_DISKS)
def test_every_cut_leaves_old_or_new(name: str, record_property: Callable[[str, object], None]) -> None:
    before = GPT_DISKS[name]()
    after, epochs = recorded(before)
    old, new = tablereader.linux(before), tablereader.linux(after)
    assert old and new and old != new and len(old[1]) == 2 and len(new[1]) == 4
    states = redone = 0
    for torn in cuts(before, epochs):
        states += 1
        seen = tablereader.linux(torn)
        assert seen in (old, new)
        assert tablereader.uefi(torn) == seen
        boots_from = tablereader.grub(torn)  # its boot partition's PARTUUID is what the initramfs will look for
        assert boots_from and seen and boots_from[1][0][1] == seen[1][0][1]
        ours = read_table(torn, sector=torn.sector)
        assert (len(ours.partitions) == 2) == (seen == old)
        if states % 7 == 0 or states < 300:
            redone += 1
            converge(torn, tag=0xF00D)
            again = tablereader.linux(torn)
            assert again and len(again[1]) == 4 and not read_table(torn, sector=torn.sector).fault
            assert seen == old or again == new, "a new table that was seen once stays"
    record_property("states", states)
    print(f"\n{name}: {states} states, {redone} of them redone")


def test_cuts_while_a_cut_is_mended() -> None:
    """The second attempt is cut as well, at every sector: still one of the tables, and the third attempt ends it."""
    states = 0
    before = flashed_gpt(SIZE)
    after, epochs = recorded(before)
    old, new = tablereader.linux(before), tablereader.linux(after)
    for torn in cuts(before, epochs):
        again = torn.copy()
        converge(again, tag=0xF00D)
        allowed = (old, new, tablereader.linux(again))
        for twice in cuts(torn, again.epochs):
            states += 1
            seen = tablereader.linux(twice)
            assert seen in allowed
            boots_from = tablereader.grub(twice)
            assert boots_from and seen and boots_from[1][0][1] == seen[1][0][1]
            converge(twice, tag=0xACDC)
            assert not read_table(twice, sector=512).fault
    print(f"\n{states} states of two cuts")


@pytest.mark.parametrize("lost", ["sectors 0-7", "primary", "backup"])
def test_a_whole_physical_sector_or_copy_is_lost(lost: str) -> None:
    """A drive with 4096-byte physical sectors can lose eight logical ones at once: MBR, header and entries. While
    they are being written the backup is complete; afterwards one copy is enough for a repair."""
    after, _ = recorded(flashed_gpt(SIZE))
    new = tablereader.linux(after)
    span = {"sectors 0-7": range(8), "primary": range(1, 34), "backup": range(SIZE // 512 - 33, SIZE // 512)}[lost]
    for n in span:
        after.durable[n] = b"\xa5" * 512
    assert tablereader.linux(after) == new
    assert read_table(after, sector=512).fault
    converge(after, tag=1)
    assert tablereader.linux(after) == tablereader.uefi(after) == new and not read_table(after, sector=512).fault


def test_nothing_is_written_twice() -> None:
    after, _ = recorded(flashed_gpt(SIZE))
    layout = as_disk(after)
    written = after.writes
    write_table(after, layout.partitions, new_id=layout.id, sector=512)
    assert after.writes == written


def test_what_others_put_there_is_kept() -> None:
    before = flashed_gpt(SIZE)
    after, _ = recorded(before)
    assert after.read(0, 440) == before.read(0, 440), "boot code"
    found = read_table(after, sector=512).gpt
    assert found and found.entries[1].attributes == 1 << 60


@pytest.mark.fault(22)
def test_a_device_that_forgets_is_found_out_before_the_primary_is_touched() -> None:
    medium = flashed_gpt(SIZE)
    medium.keeps_nothing = True
    with pytest.raises(ReadBackMismatch):
        converge(medium, tag=1)
    assert len(as_disk(medium).partitions) == 2 and {n for epoch in medium.epochs for n, _ in epoch} & {1, 2} == set()


@pytest.mark.parametrize("write", range(5))
def test_a_write_error_at_every_write(write: int) -> None:
    medium = flashed_gpt(SIZE)
    old = tablereader.linux(medium)
    medium.fail_at = write
    with pytest.raises(DiskError, match="cannot write"):
        converge(medium, tag=1)
    medium.power_cut()
    seen = tablereader.linux(medium)
    assert seen == old or (seen and len(seen[1]) == 4)
    medium.fail_at = -1
    converge(medium, tag=2)
    assert len(as_disk(medium).partitions) == 4


def test_a_table_write_never_moves_shrinks_or_drops() -> None:
    medium = flashed_gpt(SIZE)
    layout = wanted(medium)
    one, two, *rest = layout.partitions
    for bad in ((replace(one, start=2 * MIB), two, *rest), (one, replace(two, size=MIB), *rest), (one, *rest)):
        with pytest.raises(Protected):
            new_writes(medium, bad, new_id=layout.id, sector=512)
    with pytest.raises(DiskError, match="does not fit"):
        new_writes(medium, (one, replace(two, size=SIZE), *rest), new_id=layout.id, sector=512)
    with pytest.raises(DiskError, match="no room for the backup"):
        new_writes(medium, (one, two, rest[0], replace(rest[1], size=SIZE - rest[1].start)), new_id=layout.id,
                   sector=512)
    assert medium.writes == 0


def test_no_table_is_an_error_that_teaches() -> None:
    with pytest.raises(DiskError, match="no valid partition table") as failure:
        read_table(Medium(SIZE), sector=512)
    assert "sfdisk" in failure.value.hint


@pytest.mark.fault(28)
@pytest.mark.parametrize("sector", [512, 4096])
def test_dos_every_cut(sector: int) -> None:
    before = flashed_mbr(SIZE, sector=sector)
    after, epochs = recorded(before)
    old, new = tablereader.kernel_mbr(before), tablereader.kernel_mbr(after)
    assert old and new and len(new[1]) == 4 and old[0] != new[0]
    states = 0
    for torn in cuts(before, epochs):
        states += 1
        assert tablereader.kernel_mbr(torn) in (old, new)
    assert states > 2 and after.read(0, 440) == before.read(0, 440)
    converge(after, tag=3)
    assert tablereader.kernel_mbr(after) == new


def test_dos_disk_that_was_a_gpt_one() -> None:
    """Linux with `gpt` would use the stale backup at the end of a DOS disk; the first table write erases it."""
    medium = flashed_mbr(SIZE)
    stale_backup_of = flashed_gpt(SIZE)
    stale_backup(stale_backup_of)
    for n in range(SIZE // 512 - 33, SIZE // 512):
        medium.durable[n] = stale_backup_of._at(n)
    assert tablereader.linux(medium)
    assert as_disk(medium).table == "dos"
    converge(medium, tag=1)
    assert tablereader.linux(medium) is None and len(as_disk(medium).partitions) == 4


def test_hybrid_and_extended_are_refused() -> None:
    medium = flashed_gpt(SIZE)
    zero = bytearray(medium.read(0, 512))
    zero[446 + 16:446 + 32] = zero[446:446 + 16]
    zero[446 + 16 + 4] = 0x0C
    medium.durable[0] = bytes(zero)
    with pytest.raises(DiskError, match="hybrid"):
        new_writes(medium, wanted(medium).partitions, new_id="x", sector=512)
    dos = flashed_mbr(SIZE)
    zero = bytearray(dos.read(0, 512))
    zero[446 + 16 + 4] = 0x0F
    dos.durable[0] = bytes(zero)
    with pytest.raises(DiskError) as failure:
        read_table(dos, sector=512)
    assert "extended" in failure.value.why
