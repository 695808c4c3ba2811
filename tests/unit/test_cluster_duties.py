"""What a node in its cluster does by itself about what a task that ended left undone there."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from k8r_agent.config.settings import BootSettings
from k8r_agent.engine import Outcome
from k8r_agent.errors import Incompatible
from k8r_agent.model.slots import Slot
from k8r_agent.steps import duties, gates
from k8r_agent.steps.cluster_gates import own_version
from k8r_agent.store import upgrade
from k8r_agent.store.upgrade import Upgrade
from tests.crash.clusters import NETWORK, founder, inside, networker, rested
from tests.crash.scenarios import last
from tests.fakes.loaders import PlainLoader
from tests.fakes.simple import SimpleBoot
from tests.fakes.upgrading import ControlPlane, control_plane
from tests.fakes.world import FakeNode

UNIT = Path(__file__).parents[2] / "units/k8r-join.service"
BEGUN = Upgrade(txn="t1", before="1.31.4", after="1.32.0", release=2)


def booted(node: FakeNode, record: Upgrade | None = None) -> FakeNode:
    node.power_on()
    if record is not None:
        upgrade.save(node.files, record)
    return node


def test_an_upgrade_that_was_left_unsettled_is_settled() -> None:
    node = booted(inside(founder(PlainLoader)), BEGUN)
    assert node.session() is Outcome.DONE and last(node).task == "settle"
    assert upgrade.load(node.files) is None and str(own_version(node.world())) == "1.31.4"


def test_a_control_plane_that_does_not_get_well_is_looked_at_again_later() -> None:
    node = booted(inside(founder(PlainLoader)), BEGUN)
    node.cluster.api_from = float("inf")
    assert node.session() is Outcome.FAILED and last(node).facts["hint"]
    before = last(node).id
    assert node.session() is None and last(node).id == before, "not at once"
    assert upgrade.load(node.files) is not None
    node.cluster.api_from = 0.0
    node.machine.sleep(duties.REST)
    assert node.session() is Outcome.DONE and upgrade.load(node.files) is None


def test_addons_that_are_owed_are_no_duty() -> None:
    node = booted(inside(founder(PlainLoader)), Upgrade(**{**vars(BEGUN), "owed": True}))
    assert node.session() is None and upgrade.load(node.files) is not None


@pytest.mark.parametrize("lost", ["web", "api"])
def test_a_pod_network_that_could_not_be_had_is_asked_for_again(lost: str) -> None:
    node = networker(PlainLoader)
    manifest = node.cluster.web[NETWORK]
    if lost == "web":
        node.cluster.web.clear()
    else:
        node.cluster.api_slow = float("inf")
    rested(node)
    assert last(node).task == "join" and "install-cni" in last(node).note
    assert conditions_hold(node), "the timer starts the runner"
    before = last(node).id
    assert node.session() is None and last(node).id == before, "not at once"
    node.cluster.web[NETWORK], node.cluster.api_slow, node.cluster.api_from = manifest, 0.0, 0.0
    node.machine.sleep(duties.REST)
    assert node.session() is Outcome.DONE and last(node).id != before
    api = node.cluster.api()
    assert api is not None and list(api.data["objects"]) == ["kind: DaemonSet\n"]
    assert not conditions_hold(node), "and not any more"


def conditions_hold(node: FakeNode) -> bool:
    """Of k8r-join.service: one of those with a bar is enough."""
    lines = re.findall(r"^ConditionPathExists=\|(!?)/(\S+)$", UNIT.read_text(), re.MULTILINE)
    assert len(lines) == 4
    there = [node.files.read(path.removeprefix("var/lib/k8r/")) if path.startswith("var/lib/k8r/")
             else node.cluster.read(path) for _, path in lines]
    return any((found is None) is bool(no) for (no, _), found in zip(lines, there, strict=True))


def test_a_manifest_that_is_refused_is_not_tried_again() -> None:
    """Somebody has to change something."""
    node = networker(PlainLoader)
    node.cluster.web[NETWORK] = b"kind: Other"
    rested(node)
    assert "is not the manifest that was named" in last(node).note
    node.machine.sleep(duties.REST)
    assert node.session() is None


def test_an_upgrade_whose_settling_was_cancelled_rests_as_well() -> None:
    node = booted(inside(founder(PlainLoader)), BEGUN)
    node.cancel_before = "settle-control-plane"
    assert node.session() is Outcome.CANCELLED and node.session() is None


# the image slot runs for want of a working one


def worn_out(image: str) -> ControlPlane:
    """A control plane at 1.31.4 in its image slot, which holds that Kubernetes. It had its one more chance."""
    node = control_plane(image=image)
    node.boot_into(Slot.IMAGE)
    boot = node.world.boot
    assert isinstance(boot, SimpleBoot)
    boot.now = replace(boot.now, tries_left=0)
    node.world.settings = replace(node.world.settings, boot=BootSettings(when_working_dead="reinstall"))
    duties.count_chance(node.files)
    return node


@pytest.mark.parametrize("image", ["1.32.0", "1.30.9", ""])
def test_no_control_plane_is_given_up_for_an_image_that_could_not_bring_it_back(image: str) -> None:
    node = worn_out(image)
    duty = duties.decide(node.world, None)
    assert duty.action is duties.Action.NONE and "at 1.31.4, and only its old system could upgrade that" in duty.why
    with pytest.raises(Incompatible, match="is not written with this image") as caught:
        gates._kubernetes(node.world)
    assert "holds Kubernetes 1.31;" in caught.value.hint


@pytest.mark.parametrize("image", ["1.31.4", "1.31.9"])
def test_one_that_can_is_taken(image: str) -> None:
    node = worn_out(image)
    assert duties.decide(node.world, None).task == "reinstall"
    gates._kubernetes(node.world)


def test_a_membership_that_cannot_be_read_costs_the_working_slot_no_chance() -> None:
    node = worn_out("1.31.4")
    duties.operator_spoke(node.files)
    node.files.write("cluster/membership.json", b"{")
    duty = duties.decide(node.world, None)
    assert duty.action is duties.Action.RETURN and "one more chance" in duty.why
    duties.count_chance(node.files)
    assert duties.decide(node.world, None).action is duties.Action.NONE
    node.begin("t2", force="yes")
    gates._kubernetes(node.world)


def test_force_takes_any() -> None:
    node = worn_out("1.32.0")
    node.begin("t2", force="yes")
    gates._kubernetes(node.world)


def test_the_working_slot_upgrades_its_control_plane_itself() -> None:
    gates._kubernetes(control_plane().world)
