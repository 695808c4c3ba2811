"""Which releases a node can go back to."""

from __future__ import annotations

from k8r_agent.model.slots import Slot, SlotState, SlotStatus
from k8r_agent.store.slots import SlotStore, before
from tests.fakes.statefiles import FakeStateFiles

MANIFEST = {"manifest.toml": b"release"}


def test_the_release_that_runs_is_kept_however_many_come_into_the_image_slot() -> None:
    slots = SlotStore(FakeStateFiles())
    slots.keep(2, MANIFEST)
    slots.set_status(Slot.WORKING, SlotStatus(state=SlotState.OK, release=2))
    for release in (3, 4):
        slots.keep(release, MANIFEST)
        assert slots.kept_releases() == (release, 2)
    assert slots.kept(3, "manifest.toml") is None and slots.kept(2, "manifest.toml") == b"release"


def test_a_release_that_never_got_well_is_not_the_one_to_go_back_to() -> None:
    slots = SlotStore(FakeStateFiles())
    for release, well in ((1, True), (2, False), (3, True)):
        slots.set_status(Slot.WORKING, SlotStatus(state=SlotState.OK, release=release))
        if well:
            slots.raise_floor(release)
        slots.keep(release, MANIFEST)  # as a rescue does, after the confirm
    assert slots.kept_releases() == (3, 1) and slots.confirmed_releases() == (3, 1)
    assert before(slots, 3) == 1 and before(slots, 1) == 0


def test_what_is_kept_counts_where_nobody_wrote_down_what_was_confirmed() -> None:
    slots = SlotStore(FakeStateFiles())
    for release in (1, 2):
        slots.keep(release, MANIFEST)
    assert before(slots, 3) == 2


def test_after_a_reinstall_the_one_before_is_kept() -> None:
    slots = SlotStore(FakeStateFiles())
    for release in (1, 2):
        slots.keep(release, MANIFEST)
        slots.set_status(Slot.WORKING, SlotStatus(state=SlotState.OK, release=release))
    assert slots.kept_releases() == (2, 1)
    slots.keep(3, MANIFEST)
    assert slots.kept_releases() == (3, 2)
