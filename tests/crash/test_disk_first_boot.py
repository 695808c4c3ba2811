"""partition-disk and make-state, killed or cut at every point, alone and twice: the disk becomes a node's all the
same, and what was once on the state partition stays there."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from k8r_agent.config.settings import DiskSettings, Settings
from k8r_agent.errors import DiskAmbiguous, DiskTooSmall, K8rError, NoState, Protected, Refused
from k8r_agent.model import marker as markers
from k8r_agent.model.layout import STATE, WORKING
from k8r_agent.model.slots import Slot
from k8r_agent.ports.step import World
from k8r_agent.steps.make_state import MakeState
from k8r_agent.steps.partition_disk import PartitionDisk
from tests.fakes import ext4
from tests.fakes.disks import FakeDisks
from tests.fakes.flashed import MIB, flashed_gpt, flashed_mbr
from tests.fakes.medium import Medium
from tests.fakes.statefiles import FakeStateFiles
from tests.fakes.statepartition import FakeStatePartition, MemoryBootFiles

SETTINGS = Settings(disk=DiskSettings(image_size=9 * MIB, state_size=4 * MIB))
STEPS = (PartitionDisk(), MakeState())
CUTS: dict[str, Callable[[int], bool]] = {
    "nothing arrived": lambda sector: False, "all arrived": lambda sector: True,
    "every other sector arrived": lambda sector: sector % 2 == 0,
    "all but the last of the disk arrived": lambda sector: sector % 8192 != 8191,
}


class Die(BaseException):
    pass


class Quiet:
    def status(self, text: str) -> None: ...
    def progress(self, done: int, total: int) -> None: ...


class Node:
    """A flashed disk and what boots from it. Dies at the points whose numbers are in `deaths`."""

    def __init__(self, medium: Medium | None = None, *, deaths: frozenset[int] = frozenset(), foreign: str = "refuse",
                 boot_files: MemoryBootFiles | None = None, state_size: int = 4 * MIB) -> None:
        self.deaths, self.passed = deaths, 0
        self.trace: list[str] = []
        self.disks = FakeDisks(medium or flashed_gpt(32 * MIB), point=self.point)
        self.files = FakeStateFiles(point=self.point)
        self.boot_files = boot_files or MemoryBootFiles(self.point)
        self.state = FakeStatePartition(self.disks, self.files, boot_files=self.boot_files, foreign=foreign)
        nothing: Any = None
        settings = replace(SETTINGS, disk=replace(SETTINGS.disk, state_size=state_size, foreign_state=foreign))
        self.world = World(settings=settings, disks=self.disks, boot=nothing, state=self.state, files=self.files,
                           slots=nothing, bundles=nothing, identity=nothing, machine=nothing, report=Quiet())
        self.state.boot()

    def point(self, name: str) -> None:
        self.trace.append(name)
        self.passed += 1
        if self.passed - 1 in self.deaths:
            raise Die(name)

    def run(self, death: str) -> None:
        """Until all is done. `death`: "killed", or how a power cut leaves the medium."""
        for attempt in range(20):
            try:
                if self.files.read("transaction.json") is None:
                    self.files.write("transaction.json", b"first-boot")
                for step in STEPS:
                    if not step.done(self.world):
                        step.apply(self.world)
                    assert step.done(self.world)
                return
            except Die:
                if death == "killed, then cut":
                    death_now = "killed" if attempt == 0 else "nothing arrived"
                else:
                    death_now = death
                if death_now != "killed":
                    self.restart(CUTS[death_now])
        raise AssertionError("does not converge")

    def restart(self, reached: Callable[[int], bool] = CUTS["nothing arrived"], slot: Slot = Slot.IMAGE) -> None:
        self.state.power_cut()
        self.disks.power_cut(reached)
        if slot is Slot.WORKING:  # it was installed in the meantime
            start, _ = self.disks.kernel[WORKING]
            self.disks.put(start, ext4.image(MIB, label="writable"))
            self.disks.medium.flush()
        self.disks.boot(slot)
        self.state.boot()

    def check(self) -> None:
        disk = self.disks.own()
        working, state = disk.partition(WORKING), disk.partition(STATE)
        assert working and state and not disk.fault and disk.id != "11111111-2222-4333-8444-555555555555"
        assert self.state.marker() == self.disks.filesystem_uuid(state) == markers.uuid_of_life(disk.id, state.uuid)
        assert self.files.persistent() and self.files.read("format") == b"1\n"
        assert self.files.read("transaction.json") == b"first-boot"


@pytest.mark.parametrize("death", ["killed", "killed, then cut", *CUTS])
@pytest.mark.parametrize("table", ["gpt", "dos"])
def test_dies_once_or_twice_anywhere(death: str, table: str) -> None:
    def medium() -> Medium:
        return flashed_gpt(32 * MIB) if table == "gpt" else flashed_mbr(32 * MIB)
    straight = Node(medium())
    straight.run(death)
    straight.check()
    points = len(straight.trace)
    pairs = list(itertools.combinations(range(points + 12), 2))
    chosen = [frozenset({n}) for n in range(points)]
    chosen += [frozenset(p) for p in random.Random(3).sample(pairs, 60)]
    for deaths in chosen:
        node = Node(medium(), deaths=deaths)
        node.run(death)
        node.deaths = frozenset()
        node.check()
        node.files.write("identity/machine-id", b"precious")
        node.restart()
        node.run(death)
        assert node.files.read("identity/machine-id") == b"precious"
        assert node.disks.mkfs_runs <= 1 + len(deaths)
    print(f"\n{table}, {death}: {points} points, {len(chosen)} runs")


# never formatted once it was in use

def used() -> Node:
    node = Node()
    node.run("killed")
    node.files.write("identity/machine-id", b"precious")
    return node


def rub_out(node: Node, offset: int, length: int) -> None:
    node.disks.put(node.disks.kernel[STATE][0] + offset, bytes(length))
    node.disks.medium.flush()


def lose_superblock(node: Node) -> None:
    rub_out(node, 0, 4096)


def tear_superblock(node: Node) -> None:
    rub_out(node, 1024 + 512, 512)


def lose_tables(node: Node) -> None:
    rub_out(node, ext4.TABLES, 512)


def other_filesystem(node: Node) -> None:
    start, size = node.disks.kernel[STATE]
    node.disks.put(start + 1024, ext4.superblock(uuid="99999999-0000-4000-8000-000000000000", label="x", size=size))
    node.disks.medium.flush()


def lose_marker(node: Node) -> None:
    node.boot_files.files.pop(markers.PATH, None)


def garble_marker(node: Node) -> None:
    node.boot_files.files[markers.PATH] = b"\xff" * 512


def empty_marker(node: Node) -> None:
    node.boot_files.files[markers.PATH] = b""


DAMAGES = (lose_superblock, tear_superblock, lose_tables, other_filesystem, lose_marker, garble_marker, empty_marker)


@pytest.mark.fault(29)
@pytest.mark.parametrize("first", [d.__name__ for d in DAMAGES])
@pytest.mark.parametrize("second", ["", *(d.__name__ for d in DAMAGES)])
@pytest.mark.parametrize("foreign", ["refuse", "adopt"])
@pytest.mark.parametrize("slot", Slot)
def test_damage_never_ends_in_mkfs(first: str, second: str, foreign: str, slot: Slot) -> None:
    """One or two things break, then somebody runs first-boot again and again, from whichever slot. Also where marker
    and superblock are both gone: that nothing is there says nothing."""
    by_name = {d.__name__: d for d in DAMAGES}
    node = used()
    node.state._foreign = foreign
    life, runs = node.disks.life(STATE), node.disks.mkfs_runs
    for name in (first, second):
        if name:
            by_name[name](node)
    node.restart(slot=slot)
    repaired = {"lose_marker", "garble_marker", "empty_marker"} >= {n for n in (first, second) if n}
    for _ in range(3):
        try:
            MakeState().apply(node.world)
            assert repaired and node.files.read("identity/machine-id") == b"precious"
        except K8rError as error:
            assert not repaired and isinstance(error, (NoState, Refused, Protected)) and (error.hint or error.why)
            assert not node.files.persistent()
        assert node.disks.mkfs_runs == runs
        if "lose_tables" not in (first, second):
            assert node.disks.life(STATE) == life


def permit_of_another_life(node: Node) -> None:
    node.boot_files.files[markers.PATH] = markers.build(markers.Marker(new="99999999-0000-4000-8000-000000000000"))


@pytest.mark.parametrize("damage", [permit_of_another_life, lose_marker, garble_marker])
def test_only_the_table_write_that_makes_the_partition_permits_mkfs(damage: Callable[[Node], None]) -> None:
    node = Node()
    PartitionDisk().apply(node.world)
    disk = node.disks.own()
    state = disk.partition(STATE)
    assert state
    found = markers.parse(node.boot_files.files[markers.PATH])
    assert found.new == markers.uuid_of_life(disk.id, state.uuid) and node.state.marker() is None
    good = dict(node.boot_files.files)
    damage(node)
    for slot in Slot:
        node.restart(slot=slot)
        with pytest.raises(NoState) as failure:
            MakeState().apply(node.world)
        assert f"mkfs.ext4 -U {found.new}" in failure.value.hint
    node.boot_files.files.update(good)
    node.restart(slot=Slot.IMAGE)
    MakeState().apply(node.world)
    assert node.state.marker() == found.new and node.disks.mkfs_runs == 1


def test_a_permit_never_replaces_what_says_that_there_is_a_state() -> None:
    for damage in (lambda node: None, garble_marker, empty_marker):
        node = used()
        damage(node)
        before = dict(node.boot_files.files)
        node.state.permit("11111111-0000-4000-8000-000000000000", "22222222-0000-4000-8000-000000000000", fresh=True)
        assert node.boot_files.files == before


def reflashed(node: Node) -> Node:
    """The same disk, flashed anew: the old state partition still lies where the new one will."""
    medium = node.disks.medium.copy()
    for n, data in flashed_gpt(32 * MIB).durable.items():
        medium.durable[n] = data
    again = Node(medium)
    again.state.mounts.contents = {key: dict(content) for key, content in node.state.mounts.contents.items()}
    return again


def test_state_of_another_life_is_refused() -> None:
    again = reflashed(used())
    with pytest.raises(Refused, match="another life") as failure:
        again.run("killed")
    assert "foreign_state" in failure.value.hint and "mkfs.ext4 -U" in failure.value.hint
    assert not hasattr(again.disks, "mkfs_runs") and again.state.marker() is None


def test_state_of_another_life_is_adopted_without_its_transactions() -> None:
    old = used()
    for name in ("slots.json", "transaction.json", "queue/r1.json", "manifests/1/manifest.toml", "release-floor"):
        old.files.write(name, b"old")
    old.files.write("events.jsonl", b"old event\n")
    points = 1
    death = 0
    while death < points:
        again = reflashed(old)
        again.state._foreign = "adopt"
        again.files.append("events.jsonl", b"new event\n")
        again.files.write("identity/machine-id", b"of the image")  # captured before anybody saw the kept one
        again.passed, again.trace, again.deaths = 0, [], frozenset({death})
        again.run("nothing arrived" if death % 2 else "killed")
        points = max(points, len(again.trace))
        files = again.files
        assert files.read("identity/machine-id") == b"precious" and files.read("release-floor") == b"old"
        assert files.read("slots.json") is None and files.names("queue") == ()
        assert files.read("transaction.json") == b"first-boot"
        events = files.read("events.jsonl") or b""
        assert events.startswith(b"old event\n") and events.count(b"new event") <= 1
        assert not hasattr(again.disks, "mkfs_runs")
        death += 1
    print(f"\nadoption: {points} points")


@pytest.mark.parametrize("content, label, why", [
    ({"format": b"7\n"}, "k8r-state", "format"), ({"photos": b"x"}, "stick", "label"),
    ({"format": b"?"}, "k8r-state", "format")])
def test_what_is_no_state_is_not_adopted(content: dict[str, bytes], label: str, why: str) -> None:
    node = Node(foreign="adopt")
    PartitionDisk().apply(node.world)
    start, size = node.disks.kernel[STATE]
    other = "99999999-0000-4000-8000-000000000000"
    node.disks.put(start + 1024, ext4.superblock(uuid=other, label=label, size=size))
    node.disks.put(start + ext4.TABLES, f"tables of {other}".encode())
    node.disks.medium.flush()
    node.state.mounts.contents[node.disks.life(STATE)] = dict(content)
    with pytest.raises(Refused) as failure:
        MakeState().apply(node.world)
    assert why in failure.value.why and node.state.marker() is None and not node.files.persistent()
    assert node.state.mounts.contents[node.disks.life(STATE)] == content
    node.state._foreign = "refuse"
    with pytest.raises(Refused, match="another life"):
        MakeState().apply(node.world)


def test_nothing_is_written_while_a_copy_of_the_disk_is_there() -> None:
    node = Node()
    node.disks.twin = "/dev/sdb"
    writes = node.disks.medium.writes
    with pytest.raises(DiskAmbiguous, match="/dev/sdb"):
        node.run("killed")
    node.disks.twin = ""
    PartitionDisk().apply(node.world)
    node.disks.twin = "/dev/sdb"
    with pytest.raises(DiskAmbiguous):
        MakeState().apply(node.world)
    assert writes == 0 and not hasattr(node.disks, "mkfs_runs")


def test_a_small_disk_is_left_as_it_is() -> None:
    node = Node(flashed_gpt(20 * MIB))
    with pytest.raises(DiskTooSmall) as failure:
        node.run("killed")
    assert "bytes" in failure.value.what and node.disks.medium.writes == 0
