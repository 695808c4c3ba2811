"""A release that did not work here is not brought again, until somebody says so."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from k8r_agent.errors import Refused
from k8r_agent.model.slots import Slot, SlotState, SlotStatus
from k8r_agent.model.txn import Transaction
from k8r_agent.steps import gates, quarantine
from k8r_agent.steps.confirm import Confirm
from k8r_agent.steps.quarantine import QuarantineRelease
from k8r_agent.store import condemned
from tests.fakes.statefiles import FakeStateFiles
from tests.fakes.upgrading import ControlPlane, control_plane


def failed(node: ControlPlane, step: str, *, release: int = 2) -> None:
    assert node.world.txn is not None
    node.world.txn = replace(node.world.txn, facts={"failed-step": step, "why": "api-server: no answer",
                                                    "release": str(release)})


@pytest.mark.parametrize("step", quarantine.BLAMED)
def test_a_release_that_failed_in_the_new_system_goes_into_quarantine(step: str) -> None:
    node = control_plane()
    failed(node, step)
    assert not QuarantineRelease().done(node.world)
    QuarantineRelease().apply(node.world)
    assert QuarantineRelease().done(node.world)
    found = condemned.find(node.files, 2)
    assert found is not None and found.why == f"{step}: api-server: no answer"


@pytest.mark.parametrize("step", ["drain", "verify-image", "snapshot-etcd", ""])
def test_what_is_not_the_releases_fault_does_not(step: str) -> None:
    node = control_plane()
    failed(node, step)
    assert QuarantineRelease().done(node.world)


@pytest.mark.parametrize(("error", "blamed"), [("refused", False), ("cluster", True), ("failed", True)])
def test_nor_does_a_way_back_that_is_refused(error: str, blamed: bool) -> None:
    """Another address, a key that is not kept."""
    node = control_plane()
    failed(node, "rejoin")
    assert node.world.txn is not None
    node.world.txn = replace(node.world.txn, facts={**node.world.txn.facts, "error": error})
    assert QuarantineRelease().done(node.world) is not blamed


def test_also_on_a_node_without_a_cluster() -> None:
    node = control_plane()
    node.files.remove("cluster/membership.json")
    failed(node, "health-check")
    assert not QuarantineRelease().done(node.world)


def test_a_rescue_is_blamed_on_what_it_wrote_and_not_on_the_image_slot() -> None:
    node = control_plane()
    failed(node, "health-check", release=3)
    QuarantineRelease().apply(node.world)
    assert [one.release for one in condemned.load(node.files)] == [3]


@pytest.mark.fault(20)
def test_it_is_refused_until_it_is_forced() -> None:
    node = control_plane()
    condemned.add(node.files, condemned.Condemned(release=2, why="it did not work", time=1.0))
    with pytest.raises(Refused, match="in quarantine"):
        gates._image(node.world)
    node.begin("t2", force="yes")
    gates._image(node.world)
    assert condemned.find(node.files, 2) is not None, "looking changes nothing"
    quarantine.forgive(node.world, 2)
    node.world.txn = Transaction(id="t3", task="reinstall", steps=())
    quarantine.refuse(node.world, 2)


def test_a_release_that_got_well_after_all_is_forgiven() -> None:
    node = control_plane()
    condemned.add(node.files, condemned.Condemned(release=2, why="no container image could be pulled", time=1.0))
    node.world.slots.set_status(Slot.WORKING, SlotStatus(state=SlotState.OK, release=2, txn="t1"))
    Confirm().apply(node.world)
    assert Confirm().done(node.world) and condemned.find(node.files, 2) is None


def test_the_latest_are_kept_and_damage_condemns_nobody() -> None:
    files = FakeStateFiles()
    for release in range(1, 30):
        condemned.add(files, condemned.Condemned(release=release, why="x", time=float(release)))
    assert [one.release for one in condemned.load(files)] == list(range(14, 30))
    for text in ("{", "[]", json.dumps({"format": 1, "releases": {"x": {}}}), "{}"):
        files.live[condemned.NAME] = text.encode()
        assert condemned.load(files) == ()
