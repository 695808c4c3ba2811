"""Which releases a node can go back to."""

from __future__ import annotations

from k8r_agent.model.slots import Slot, SlotState, SlotStatus
from k8r_agent.store.slots import SlotStore
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


def test_after_a_reinstall_the_one_before_is_kept() -> None:
    slots = SlotStore(FakeStateFiles())
    for release in (1, 2):
        slots.keep(release, MANIFEST)
        slots.set_status(Slot.WORKING, SlotStatus(state=SlotState.OK, release=release))
    assert slots.kept_releases() == (2, 1)
    slots.keep(3, MANIFEST)
    assert slots.kept_releases() == (3, 2)
