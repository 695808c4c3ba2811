"""Writing the working slot straight from a bundle, while the image slot runs for want of a working one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from k8r_agent.errors import BundleError, Protected, Refused
from k8r_agent.model import superblock
from k8r_agent.model.slots import Slot, SlotState
from k8r_agent.steps.assets import FetchWorkingAssets
from k8r_agent.steps.check_bundle import CheckRescueBundle
from k8r_agent.steps.write_slot import FetchWorking
from tests.fakes import ext4
from tests.fakes.bundles import BLOCK, fake_bundle
from tests.fakes.slotbench import Node, file_system


def fetching(*, indexed: bool = True) -> Node:
    """In the image slot, past the point of no return, with the bundle of release 2 checked."""
    node = Node(current=Slot.IMAGE, primary=Slot.IMAGE)
    node.bundle.image_index = node.bundle.image_index if indexed else None
    node.run(CheckRescueBundle())
    return node


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("dear", [True, False])
def test_the_working_slot_is_fetched_with_a_uuid_of_its_own(indexed: bool, dear: bool) -> None:
    node = fetching(indexed=indexed)
    node.bundle.dear = dear
    before = node.slot(Slot.IMAGE)
    node.run(FetchWorking())
    found = node.slot(Slot.WORKING)
    assert found[BLOCK:20 * BLOCK] == file_system(2)[BLOCK:20 * BLOCK] and node.slot(Slot.IMAGE) == before
    new, old = superblock.parse(found[1024:2048]), superblock.parse(file_system(2)[1024:2048])
    assert new and old and new.label == "writable" and new.uuid != old.uuid and ext4.intact(found[1024:2048])
    status = node.world.slots.status(Slot.WORKING)
    assert (status.state, status.release, status.txn) == (SlotState.OK, 2, "t1")
    node.run(FetchWorkingAssets())
    assert node.boot.assets(Slot.WORKING) == node.bundle.assets


@pytest.mark.parametrize("now", [
    {"current": Slot.WORKING, "primary": Slot.WORKING}, {"primary": Slot.WORKING}, {"armed": Slot.WORKING},
])
def test_the_working_slot_is_not_fetched_where_it_could_boot(now: dict[str, Any]) -> None:
    node = fetching()
    node.boot.now = replace(node.boot.now, **now)
    before = node.slot(Slot.WORKING)
    with pytest.raises(Protected):
        FetchWorking().apply(node.world)
    assert node.slot(Slot.WORKING) == before


@pytest.mark.parametrize(("now", "allowed"), [
    ({"current": Slot.IMAGE, "primary": Slot.IMAGE}, True),
    ({"current": Slot.IMAGE, "primary": Slot.WORKING, "tries_left": 0}, True),
    ({"current": Slot.IMAGE, "primary": Slot.WORKING, "tries_left": 1}, False),
    ({"current": Slot.IMAGE, "primary": Slot.WORKING, "tries_left": None}, False),
    ({"current": Slot.WORKING, "primary": Slot.IMAGE}, False),
    ({"current": None, "primary": Slot.IMAGE}, False),
])
def test_a_rescue_gives_up_nothing_that_could_boot(now: dict[str, Any], allowed: bool) -> None:
    node = Node()
    node.boot.now = replace(node.boot.now, **now)
    if allowed:
        return node.run(CheckRescueBundle())
    with pytest.raises(Refused):
        CheckRescueBundle().apply(node.world)


def test_a_rescue_by_the_release_before_takes_the_kept_one_and_no_other() -> None:
    node = fetching()
    node.world.slots.keep(1, {"manifest.toml": b"kept", "source": b"/bundle"})
    node.begin("t2", release="1")
    with pytest.raises(Refused, match="does not hold release 1"):
        CheckRescueBundle().apply(node.world)


def test_the_kernel_of_another_bundle_does_not_get_beside_the_fetched_system() -> None:
    node = fetching()
    with pytest.raises(Protected, match="not written yet"):
        FetchWorkingAssets().apply(node.world)
    node.run(FetchWorking())
    node.bundles.add(fake_bundle(3))
    with pytest.raises(BundleError, match="another bundle"):
        FetchWorkingAssets().apply(node.world)
    assert node.boot.assets(Slot.WORKING) != fake_bundle(3).assets
