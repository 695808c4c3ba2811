"""The real World is put together without touching the machine; the whole node in memory behaves like one."""

from __future__ import annotations

from k8r_agent.config.settings import Settings
from k8r_agent.engine import Outcome
from k8r_agent.model.slots import Slot, SlotState
from k8r_agent.model.txn import TxnState
from k8r_agent.steps.gates import plan
from k8r_agent.store.events import EventLog
from k8r_agent.store.journal import Journal
from k8r_agent.world import Lazy, real
from tests.crash.scenarios import asked, settled, updated
from tests.fakes.loaders import PlainLoader
from tests.fakes.world import FakeNode


def test_the_real_world_opens_nothing() -> None:
    world = real(Settings())
    for part in (world.boot, world.disks, world.bundles, world.identity, world.machine, world.state):
        assert isinstance(part, Lazy) and "_lazy_made" not in part.__dict__


def test_what_is_lazy_is_made_once() -> None:
    made: list[int] = []

    def make() -> object:
        made.append(1)
        return [3, 1, 2]

    lazy = Lazy(make)
    assert not made
    assert lazy.index(1) == 1 and lazy.count(2) == 1 and made == [1]


def test_a_life_first_boot_update_reinstall() -> None:
    node = FakeNode(PlainLoader)
    node.power_on()
    assert node.running is Slot.IMAGE
    assert node.session() is Outcome.REBOOTING
    node.shut_down()
    node.power_on()
    assert node.session() is Outcome.DONE and str(node.running) == "working"
    node = updated(PlainLoader)
    node = asked(node, "reinstall")
    outcomes = []
    while (outcome := node.session()) is Outcome.REBOOTING:
        outcomes.append(node.running)
        node.shut_down()
        node.power_on()
    assert outcome is Outcome.DONE and outcomes == [Slot.WORKING, Slot.IMAGE] and node.running is Slot.WORKING
    world = node.world()
    assert {slot: world.slots.status(slot).release for slot in Slot} == {Slot.IMAGE: 2, Slot.WORKING: 2}
    assert world.slots.release_floor() == 2 and world.slots.kept_releases() == (2, 1)


def test_every_step_leaves_started_and_succeeded_with_a_duration_in_a_log_that_survives() -> None:
    node = updated(PlainLoader)
    node = asked(node, "reinstall")
    while node.session() is Outcome.REBOOTING:
        node.shut_down()
        node.machine.sleep(30)
        node.power_on()
    txn = Journal(node.files).load()
    assert txn is not None and txn.state is TxnState.DONE
    events = EventLog(node.files).read(txn=txn.id)
    for step in txn.steps:
        kinds = [e.kind for e in events if e.step == step and e.kind != "note"]
        assert kinds == ["started", "succeeded"], (step, kinds)
    booted = next(e for e in events if e.step == "boot-working" and e.kind == "succeeded")
    assert booted.duration >= 30 and booted.slot == "working"
    assert len({e.boot_id for e in events}) == 3


def test_the_plan_says_what_a_reinstall_would_do_and_why_not() -> None:
    node = updated(PlainLoader)
    node.power_on()
    found = plan(node.world())
    assert (found.release_now, found.release_then, found.refusals) == (1, 2, ()) and found.lost and found.kept
    world = node.world()
    world.slots.set_status(Slot.IMAGE, world.slots.status(Slot.IMAGE).__class__(state=SlotState.PENDING))
    assert ["image slot is pending" in str(refusal) for refusal in plan(world).refusals] == [True]


def test_nothing_is_begun_on_a_disk_that_is_there_twice() -> None:
    node = settled(PlainLoader)
    node.disks.twin = "/dev/vdb"
    node = asked(node, "update", source="release-2")
    node.session()
    txn = Journal(node.files).load()
    assert txn is not None and txn.state is TxnState.FAILED and "copies of each other" in txn.note
    assert txn.facts["error"] == "disk-ambiguous"


def test_the_floor_holds_except_for_a_rollback() -> None:
    node = asked(updated(PlainLoader), "reinstall")
    while node.session() is Outcome.REBOOTING:
        node.shut_down()
        node.power_on()
    node.machine.sleep(1)
    node.shut_down()
    node = asked(node, "update", source="release-1")
    node.session()
    txn = Journal(node.files).load()
    assert txn is not None and txn.state is TxnState.FAILED and "older than this node accepts" in txn.note
