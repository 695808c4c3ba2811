"""grow-working, on fakes; partition-disk and make-state have their crash matrix."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from k8r_agent.config.settings import DiskSettings, Settings
from k8r_agent.effects import table
from k8r_agent.errors import BootError, ConfigError, Refused, StepFailed
from k8r_agent.model.layout import STATE, WORKING
from k8r_agent.model.slots import Slot, SlotState, SlotStatus
from k8r_agent.model.txn import Transaction
from k8r_agent.ports.step import World
from k8r_agent.steps.fresh_working import FRESH, FreshWorking
from k8r_agent.steps.grow_working import GrowWorking
from k8r_agent.steps.partition_disk import PartitionDisk
from k8r_agent.store.slots import SlotStore
from tests.fakes import ext4
from tests.fakes.disks import FakeDisks
from tests.fakes.flashed import MIB, flashed_gpt, flashed_mbr
from tests.fakes.medium import Medium
from tests.fakes.statefiles import FakeStateFiles
from tests.fakes.statepartition import FakeStatePartition, MemoryBootFiles


class Notes:
    def __init__(self) -> None:
        self.texts: list[str] = []

    def status(self, text: str) -> None:
        self.texts.append(text)

    def progress(self, done: int, total: int) -> None: ...


def world(disks: FakeDisks) -> World:
    nothing: Any = None
    settings = Settings(disk=DiskSettings(image_size=9 * MIB, state_size=4 * MIB))
    state = FakeStatePartition(disks, FakeStateFiles())
    return World(settings=settings, disks=disks, boot=nothing, state=state, files=nothing, slots=nothing,
                 bundles=nothing, identity=nothing, machine=nothing, report=Notes())


@pytest.mark.fault(34)
def test_grow_working() -> None:
    disks = FakeDisks(flashed_gpt(32 * MIB))
    w, step = world(disks), GrowWorking()
    PartitionDisk().apply(w)
    disks.put(disks.kernel[WORKING][0], ext4.image(8 * MIB, label="writable"))
    disks.medium.flush()
    assert not step.done(w)
    with pytest.raises(StepFailed, match="while it runs"):
        step.apply(w)
    disks.boot(Slot.WORKING)
    assert not step.done(w)
    step.apply(w)
    assert step.done(w)
    disks.power_cut()
    disks.boot(Slot.WORKING)
    assert step.done(w)


def test_a_mistake_in_the_configuration_is_met_before_the_disk_is_divided_for_good() -> None:
    disks = FakeDisks(flashed_gpt(32 * MIB))
    w = world(disks)
    w.mistakes = (ConfigError("image_sizes is no key of [disk]", where="k8r.toml:7"),)
    before = disks.own()
    with pytest.raises(ConfigError, match=r"k8r\.toml:7"):
        PartitionDisk().apply(w)
    assert disks.own() == before


def test_what_a_dos_table_cannot_reach_is_said() -> None:
    disks = FakeDisks(flashed_mbr((2 << 40) + (1 << 30)))
    w = world(disks)
    PartitionDisk().apply(w)
    assert isinstance(w.report, Notes) and "GPT" in w.report.texts[0] and PartitionDisk().done(w)


@pytest.mark.parametrize("copy", ["primary", "backup"])
def test_a_broken_copy_of_the_table_is_mended(copy: str) -> None:
    disks = FakeDisks(flashed_gpt(32 * MIB))
    w, step = world(disks), PartitionDisk()
    step.apply(w)
    before = disks.own()
    disks.medium.durable[1 if copy == "primary" else 32 * MIB // 512 - 1] = bytes(512)
    assert not step.done(w) and disks.own().partitions == before.partitions
    step.apply(w)
    assert step.done(w) and disks.own() == before


def test_a_first_boot_writes_no_working_slot_that_may_hold_something() -> None:
    """Only what says that there is nothing counts: the table write, a status; never that nothing is known."""
    disks = FakeDisks(flashed_gpt(32 * MIB))
    w = world(disks)
    files = FakeStateFiles()
    w.slots = SlotStore(files)
    PartitionDisk().apply(w)
    facts: dict[str, str] = {}

    def remember(name: str, value: str) -> Transaction:
        facts[name] = value
        return Transaction(id="t", task="first-boot", steps=(), facts=dict(facts))

    def begin(**known: str) -> None:
        facts.clear()
        facts.update(known)
        w.txn, w.remember_fact = Transaction(id="t", task="first-boot", steps=(), facts=known), remember

    step = FreshWorking()
    begin()
    step.apply(w)
    assert step.done(w), "empty"
    disks.put(disks.kernel[WORKING][0], ext4.image(8 * MIB, label="writable"))
    disks.medium.flush()
    begin()
    with pytest.raises(Refused, match="not written by a first boot") as failure:
        step.apply(w)
    assert not step.done(w) and "confirm" in failure.value.hint and "writable" in failure.value.why
    begin(**{FRESH: "yes"})  # another life of the disk: the table that was just written made the slot
    step.apply(w)
    assert step.done(w)
    for state, floor, fine in ((SlotState.PENDING, 0, True), (SlotState.OK, 0, True), (SlotState.OK, 1, False),
                               (SlotState.UNKNOWN, 0, False)):
        w.slots.set_status(Slot.WORKING, SlotStatus(state=state, release=1))
        w.slots.raise_floor(floor)
        files.live.pop("release-floor", None) if not floor else None
        begin()
        with contextlib.nullcontext() if fine else pytest.raises(Refused):
            step.apply(w)


def test_the_table_write_says_whether_it_made_the_working_slot() -> None:
    for fresh in (True, False):
        disks = FakeDisks(flashed_gpt(32 * MIB))
        w = world(disks)
        if not fresh:  # a disk of older k8r: a working slot, and no state partition
            PartitionDisk().apply(w)
            disk = disks.own()
            kept = tuple(p for p in disk.partitions if p.number != STATE)
            disks.medium = flashed_gpt(32 * MIB)
            table.write_table(disks.medium, kept, new_id=disk.id, sector=512)
            disks.boot(Slot.IMAGE)
            w = world(disks)
        PartitionDisk().apply(w)
        assert w.state.fresh() is fresh


class NotMounted(MemoryBootFiles):
    """An empty directory: it has no marker either."""

    @contextlib.contextmanager
    def writable(self) -> Iterator[None]:
        raise BootError("the boot partition is not mounted")
        yield


def test_nothing_is_formatted_while_the_boot_partition_is_not_mounted() -> None:
    disks = FakeDisks(flashed_gpt(32 * MIB))
    made = world(disks)
    PartitionDisk().apply(made)
    found = disks.own().partition(STATE)
    assert found is not None
    files = made.state.boot_files  # type: ignore[attr-defined]
    gone = NotMounted()
    gone.files = dict(files.files)  # what was read of it before
    for boot_files, signature in ((gone, False), (files, True)):
        state = FakeStatePartition(disks, FakeStateFiles(), boot_files=boot_files)
        with contextlib.nullcontext() if signature else pytest.raises(BootError, match="not mounted"):
            state.initialise()
        assert bool(disks.signature(found)) is signature


def test_more_than_a_fake_can_be_read() -> None:
    assert Medium(1 << 50).read(1 << 49, 4096) == bytes(4096)
