"""A disk that was flashed again, with another size for its state partition: the old one, which the new table does not
name, is refused or adopted where it lies, wherever the first boot is killed or cut."""

from __future__ import annotations

from typing import Any

import pytest

from k8r_agent.errors import NoState, Refused
from k8r_agent.model.layout import STATE
from k8r_agent.steps.make_state import MakeState
from k8r_agent.steps.partition_disk import PartitionDisk
from tests.crash.test_disk_first_boot import CUTS, Die, Node, lose_superblock, reflashed, used
from tests.fakes.flashed import MIB, flashed_gpt


def elsewhere(node: Node, **options: Any) -> Node:
    """The same disk, flashed anew, with other sizes in its configuration."""
    medium = node.disks.medium.copy()
    medium.durable.update(flashed_gpt(medium.size).durable)
    again = Node(medium, **options)
    again.state.mounts.contents = {key: dict(content) for key, content in node.state.mounts.contents.items()}
    return again


def place(node: Node) -> tuple[int, int]:
    state = node.disks.own().partition(STATE)
    assert state is not None
    return state.start, state.size


def larger() -> Node:
    node = Node(flashed_gpt(40 * MIB))
    node.run("killed")
    node.files.write("identity/machine-id", b"precious")
    return node


@pytest.mark.fault(29)
@pytest.mark.parametrize("size", [2 * MIB, 6 * MIB])
def test_state_of_another_life_that_lies_elsewhere_is_refused_and_nothing_is_written(size: int) -> None:
    old = larger()
    start, length = place(old)
    again = elsewhere(old, state_size=size)
    for _ in range(2):
        with pytest.raises(Refused, match="ext4 k8r-state of another life") as failure:
            again.run("killed")
        assert str(start) in failure.value.what and "foreign_state = \"adopt\"" in failure.value.hint
        assert f"blkdiscard -zf -o {start} -l {length} /dev/vda" in failure.value.hint
        assert again.disks.medium.writes == 0 and again.state.marker() is None
        again.restart()
    again.disks.put(start, bytes(length))  # the command of the hint
    again.disks.medium.flush()
    again.run("killed")
    again.check()
    assert place(again) == (39 * MIB - size, size)


@pytest.mark.fault(29)
@pytest.mark.parametrize("death, size", [("killed", 6 * MIB), *((death, 2 * MIB) for death in CUTS)])
def test_state_of_another_life_that_lies_elsewhere_is_adopted_there(death: str, size: int) -> None:
    """Killed or cut anywhere, also where a cut tears the old backup table, which alone says where it is; and when the
    agent comes back with the word taken back, it still is not written over."""
    old = larger()
    points, number = 1, 0
    while number < points:
        again = elsewhere(old, state_size=size, foreign="adopt", deaths=frozenset({number}))
        again.run(death)
        points, number = max(points, len(again.trace)), number + 1
        assert place(again) == place(old) and again.files.read("identity/machine-id") == b"precious"
        assert not hasattr(again.disks, "mkfs_runs") and again.state.marker() == old.state.marker()
    print(f"\nadoption elsewhere, {death}: {points} points")


def test_what_was_found_is_remembered_when_the_table_that_told_of_it_is_torn() -> None:
    old = larger()
    again = elsewhere(old, state_size=2 * MIB, foreign="adopt")
    PartitionDisk().apply(again.world)
    number = again.trace.index("table:1:written")
    again = elsewhere(old, state_size=2 * MIB, foreign="adopt", deaths=frozenset({number}))
    with pytest.raises(Die):
        PartitionDisk().apply(again.world)
    again.restart(CUTS["all but the last of the disk arrived"])
    assert again.disks.own().partition(STATE) is None
    assert again.disks.former_state(again.disks.own(), known=None) is None, "no table tells of it any more"
    refusing = Node(again.disks.medium, boot_files=again.boot_files, state_size=2 * MIB)
    with pytest.raises(Refused, match="another life"):
        refusing.run("killed")
    again.run("killed")
    assert place(again) == place(old) and again.files.read("identity/machine-id") == b"precious"


def test_none_is_made_where_one_was_found_and_is_gone_by_now() -> None:
    """Between the table write and the mount, which may be days when it was refused."""
    again = reflashed(used())
    PartitionDisk().apply(again.world)
    lose_superblock(again)
    again.restart()
    with pytest.raises(NoState) as failure:
        MakeState().apply(again.world)
    assert "mkfs.ext4 -U" in failure.value.hint and not hasattr(again.disks, "mkfs_runs")
