"""What condemns a system, what does not, and for how long a verdict counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from k8r_agent.config.settings import Settings
from k8r_agent.errors import HealthFailed, NoState, Refused, StepFailed
from k8r_agent.model.boot import BootState
from k8r_agent.model.slots import Slot, SlotState, SlotStatus
from k8r_agent.model.txn import Transaction
from k8r_agent.ports.step import World
from k8r_agent.steps.capture_identity import CaptureIdentity
from k8r_agent.steps.health import HealthCheck, SelfCheck
from k8r_agent.store.slots import SlotStore
from tests.fakes.identity import FakeIdentity
from tests.fakes.machine import FakeMachine
from tests.fakes.statefiles import FakeStateFiles


class Boot:
    def __init__(self) -> None:
        self.slot = Slot.WORKING

    def state(self) -> BootState:
        return BootState(backend="fake", current=self.slot, primary=Slot.WORKING, armed=None, tries_left=3)


class Report:
    def __init__(self) -> None:
        self.said: list[str] = []

    def status(self, text: str) -> None:
        self.said.append(text)

    def progress(self, done: int, total: int) -> None:
        pass


class Node:
    def __init__(self) -> None:
        unused: Any = None
        self.machine, self.boot, self.report, self.files = FakeMachine(), Boot(), Report(), FakeStateFiles()
        self.identity = FakeIdentity(self.files)
        slots: Any = SlotStore(self.files)
        boot: Any = self.boot
        self.world = World(settings=Settings(), disks=unused, boot=boot, state=unused, files=self.files, slots=slots,
                           bundles=unused, identity=self.identity, machine=self.machine, report=self.report,
                           txn=Transaction(id="t", task="reinstall", steps=()), remember_fact=self._remember)
        for slot in Slot:
            slots.set_status(slot, SlotStatus(state=SlotState.OK, release=1))

    def _remember(self, name: str, value: str) -> Transaction:
        assert self.world.txn is not None
        return replace(self.world.txn, facts={**self.world.txn.facts, name: value})

    def boot_into(self, slot: Slot) -> None:
        self.machine.boot()
        self.boot.slot, self.identity.image_slot = slot, slot is Slot.IMAGE


@pytest.fixture
def node() -> Node:
    return Node()


def check(node: Node, step: type[SelfCheck] | type[HealthCheck]) -> Any:
    return step(limit=20)


def test_identity_is_captured_and_stays_so_in_the_image_slot(node: Node) -> None:
    step = CaptureIdentity()
    assert not step.done(node.world)
    step.apply(node.world)
    assert step.done(node.world) and node.world.recall("health-before") == "kernel network ssh state release units"
    node.boot_into(Slot.IMAGE)
    assert step.done(node.world)


def test_an_identity_that_changes_is_captured_again(node: Node) -> None:
    step = CaptureIdentity()
    step.apply(node.world)
    node.identity.has["users.json"] = b"one more"
    assert not step.done(node.world)


def test_an_identity_that_never_rests_is_an_error(node: Node) -> None:
    node.identity.restless = True
    with pytest.raises(StepFailed):
        CaptureIdentity().apply(node.world)


def test_identity_is_not_kept_in_ram(node: Node) -> None:
    node.files.on_partition = False
    with pytest.raises(NoState):
        CaptureIdentity().apply(node.world)


@pytest.mark.parametrize(("step", "slot"), [(SelfCheck, Slot.IMAGE), (HealthCheck, Slot.WORKING)])
def test_a_good_slot_passes_for_this_boot_only(node: Node, step: type[SelfCheck], slot: Slot) -> None:
    node.boot_into(slot)
    made = check(node, step)
    assert not made.done(node.world)
    made.apply(node.world)
    assert made.done(node.world)
    node.boot_into(slot)
    assert not made.done(node.world)
    node.boot.slot = slot.other
    with pytest.raises(Refused):
        made.apply(node.world)


def test_a_slow_start_is_waited_for(node: Node) -> None:
    node.machine.break_check("ssh", "nobody listens on port 22")
    node.machine.on_sleep = lambda: node.machine.heal() if node.machine.uptime > 40 else None
    check(node, HealthCheck).apply(node.world)
    assert node.report.said[0] == "waiting for ssh: nobody listens on port 22"


def test_what_stays_broken_fails_with_every_reason(node: Node) -> None:
    node.machine.break_check("ssh", "nobody listens on port 22")
    node.machine.break_check("kernel", "no modules")
    with pytest.raises(HealthFailed) as caught:
        check(node, HealthCheck).apply(node.world)
    assert caught.value.why == "kernel: no modules; ssh: nobody listens on port 22"
    assert not check(node, HealthCheck).done(node.world)


@pytest.mark.fault(18)
def test_a_network_that_was_dead_before_does_not_condemn(node: Node) -> None:
    node.machine.break_check("network")
    CaptureIdentity().apply(node.world)
    node.boot_into(Slot.IMAGE)
    check(node, SelfCheck).apply(node.world)


def test_a_network_that_the_new_system_lost_does(node: Node) -> None:
    CaptureIdentity().apply(node.world)
    node.boot_into(Slot.IMAGE)
    node.machine.break_check("network", "no default route")
    with pytest.raises(HealthFailed, match="no default route"):
        check(node, SelfCheck).apply(node.world)


def test_only_the_outside_may_have_been_broken_before(node: Node) -> None:
    node.machine.break_check("ssh")
    CaptureIdentity().apply(node.world)
    with pytest.raises(HealthFailed):
        check(node, HealthCheck).apply(node.world)


def test_first_boot_has_no_before(node: Node) -> None:
    node.machine.break_check("network")
    check(node, HealthCheck).apply(node.world)


def test_the_wrong_system_fails_at_once(node: Node) -> None:
    node.machine.release = 7
    before = node.machine.uptime
    with pytest.raises(HealthFailed, match="wrong system"):
        check(node, HealthCheck).apply(node.world)
    assert node.machine.uptime == before


def test_a_slot_that_does_not_see_the_state_partition_is_not_gone_on_with(node: Node) -> None:
    node.files.on_partition = False
    with pytest.raises(NoState):
        check(node, HealthCheck).apply(node.world)
