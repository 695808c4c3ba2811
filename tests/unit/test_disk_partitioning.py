"""Where the partitions go."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from k8r_agent.errors import DiskError, DiskTooSmall
from k8r_agent.model.layout import Disk, Partition
from k8r_agent.model.partitioning import Layout, former_starts, plan, state_at

MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40


def ids() -> Callable[[], str]:
    counter = itertools.count(1)
    return lambda: f"00000000-0000-4000-8000-{next(counter):012x}"


def disk(size: int, *more: Partition, table: str = "gpt", sector: int = 512) -> Disk:
    linux = "83" if table == "dos" else "0fc63daf-8483-4772-8e79-3d69d8477de4"
    parts = (Partition(number=1, start=MIB, size=512 * MIB, type="c" if table == "dos" else "esp", uuid="one",
                       name="system-boot", bootable=table == "dos"),
             Partition(number=2, start=513 * MIB, size=1536 * MIB, type=linux, uuid="two", name="image"), *more)
    return Disk(device=Path("/dev/vda"), size=size, sector=sector, table=table,
                id="0xcafe0001" if table == "dos" else "old", partitions=parts)


def wanted(d: Disk, image: int = 4 * GIB, state: int = 2 * GIB, role: str = "worker") -> Layout:
    layout = plan(d, image_size=image, state_size=state, role=role, new_id=ids())
    assert layout is not None
    return layout


def test_a_flashed_disk() -> None:
    layout = wanted(disk(32 * GIB))
    p1, p2, p3, p4 = layout.partitions
    assert (p1.start, p1.size) == (MIB, 512 * MIB)
    assert (p2.start, p2.size) == (513 * MIB, 4 * GIB)
    assert (p3.start, p3.end) == (p2.end, p4.start)
    assert (p4.size, p4.end) == (2 * GIB, 32 * GIB - MIB)
    assert [p.name for p in layout.partitions] == ["system-boot", "image", "writable", "k8r-state"]
    assert len({layout.id, "old", "one", "two", *(p.uuid for p in layout.partitions)}) == 8, "all IDs are fresh"


@pytest.mark.parametrize("role, label", [("worker", "k8r-state"), ("control-plane", "masterpersistent")])
def test_the_role_names_the_state_partition(role: str, label: str) -> None:
    assert wanted(disk(32 * GIB), role=role).partitions[3].name == label


@pytest.mark.parametrize("size", [32 * GIB, 32 * GIB + 12345 * 512, 500107862016, 30 * 10**9 // 512 * 512])
@pytest.mark.parametrize("image", [1 * GIB, 4 * GIB, 5 * 10**9 + 1])
def test_everything_is_aligned_and_inside(size: int, image: int) -> None:
    layout = wanted(disk(size), image=image)
    assert all(p.start % MIB == 0 and p.size % MIB == 0 for p in layout.partitions)
    assert all(a.end <= b.start for a, b in itertools.pairwise(layout.partitions))
    assert layout.partitions[3].end <= size - 33 * 512
    assert layout.partitions[1].size >= max(image, 1536 * MIB), "the image slot never shrinks"
    assert layout.partitions[2].size >= layout.partitions[1].size


def test_exactly_large_enough_and_one_byte_less() -> None:
    need = 513 * MIB + 2 * 4 * GIB + 2 * GIB + MIB
    assert wanted(disk(need)).partitions[2].size == 4 * GIB
    with pytest.raises(DiskTooSmall) as failure:
        wanted(disk(need - 512))
    assert f"{MIB} bytes" in failure.value.what, "one sector less costs an aligned MiB"
    with pytest.raises(DiskTooSmall, match=f"{4 * GIB} bytes"):
        wanted(disk(need - 4 * GIB))
    assert "disk.image_size" in failure.value.hint


def test_a_complete_disk_is_left_alone() -> None:
    layout = wanted(disk(32 * GIB))
    done = replace(disk(32 * GIB), id=layout.id, partitions=layout.partitions)
    assert plan(done, image_size=8 * GIB, state_size=GIB, role="worker", new_id=ids()) is None


def test_an_old_disk_without_state_partition_keeps_its_ids() -> None:
    old = disk(32 * GIB, Partition(number=3, start=4 * GIB, size=8 * GIB, type="x", uuid="three", name="writable"))
    layout = wanted(old)
    assert layout.id == "old" and [p.uuid for p in layout.partitions[:3]] == ["one", "two", "three"]
    assert layout.partitions[:3] == old.partitions
    assert (layout.partitions[3].start, layout.partitions[3].size) == (12 * GIB, 2 * GIB)
    with pytest.raises(DiskTooSmall, match=f"{3 * GIB} bytes"):
        wanted(disk(32 * GIB, Partition(number=3, start=4 * GIB, size=29 * GIB - MIB, type="x", uuid="3")))


def test_further_partitions_are_kept_and_not_overlapped() -> None:
    vendor = Partition(number=5, start=20 * GIB, size=GIB, type="x", uuid="five", name="vendor")
    layout = wanted(disk(32 * GIB, vendor))
    assert layout.partitions[4].start == vendor.start and layout.partitions[3].end == 20 * GIB


def test_dos_fresh_id_and_its_partuuids() -> None:
    layout = wanted(disk(32 * GIB, table="dos"))
    assert layout.id != "0xcafe0001" and layout.id.startswith("0x") and len(layout.id) == 10
    assert [p.uuid for p in layout.partitions] == [f"{layout.id[2:]}-{n:02x}" for n in (1, 2, 3, 4)]
    assert layout.partitions[0].bootable and not layout.note
    assert [p.type for p in layout.partitions] == ["c", "83", "83", "83"]


def test_dos_ends_at_two_tib_and_says_so() -> None:
    layout = wanted(disk(3 * TIB, table="dos"))
    assert layout.partitions[3].end <= 2 * TIB < 3 * TIB
    assert str(1 * TIB) in layout.note and "GPT" in layout.note
    assert not wanted(disk(3 * TIB, table="dos", sector=4096)).note, "4Kn: 16 TiB"
    assert not wanted(disk(3 * TIB)).note


def test_a_disk_that_is_no_nodes() -> None:
    d = disk(32 * GIB)
    with pytest.raises(DiskError, match="not a node's disk"):
        wanted(replace(d, partitions=d.partitions[:1]))


def test_a_state_partition_of_another_life_stays_where_it_is_and_as_it_is() -> None:
    d = disk(32 * GIB)
    layout = plan(d, image_size=4 * GIB, state_size=2 * GIB, role="worker", new_id=ids(),
                  former=state_at(d, 20 * GIB + 512, 3 * GIB - 1536))
    assert layout is not None
    p3, p4 = layout.partitions[2:]
    assert (p4.start, p4.size, p4.name) == (20 * GIB + 512, 3 * GIB - 1536, "k8r-state") and p3.end == p4.start
    with pytest.raises(DiskTooSmall, match="too small") as failure:
        plan(d, image_size=4 * GIB, state_size=2 * GIB, role="worker", new_id=ids(), former=state_at(d, 8 * GIB, GIB))
    assert "where a state partition begins" in failure.value.why


@pytest.mark.parametrize("size", [32 * GIB, 32 * GIB + 12345 * 512, 500107862016, 40 * TIB])
@pytest.mark.parametrize("table", ["gpt", "dos"])
def test_where_a_state_partition_of_another_life_may_begin(size: int, table: str) -> None:
    """Whatever it had of 128 MiB each, on a disk of this size or a smaller one; and not more than can be looked at."""
    starts = former_starts(disk(size, table=table))
    assert starts == tuple(sorted(set(starts))) and starts[0] >= 513 * MIB + 1536 * MIB and len(starts) <= 16384
    for part in (256 * MIB, 640 * MIB, 2 * GIB, 5 * GIB):
        assert wanted(disk(size, table=table), state=part).partitions[3].start in starts
        assert wanted(disk(16 * GIB, table=table), state=part).partitions[3].start in starts
