"""Nodes to crash, and what each must end as."""

from __future__ import annotations

import time
from collections.abc import Callable

from k8r_agent import runner
from k8r_agent.engine import Outcome
from k8r_agent.model.slots import Slot, SlotState, SlotStatus
from k8r_agent.model.txn import Transaction, TxnState
from k8r_agent.steps import duties
from k8r_agent.store.journal import Journal
from tests.crash.explorer import Explorer, Judge
from tests.fakes.golden import BLOCK
from tests.fakes.loaders import LOADERS
from tests.fakes.world import NUMBERS, Behaviour, FakeNode, Loader

MakeLoader = Callable[[Callable[[str], None]], Loader]


class DeadWorking(Behaviour):
    """Release 2 never comes up in the working slot."""

    def comes_up(self, slot: Slot, release: int, boots: int) -> bool:
        return not (slot is Slot.WORKING and release == 2)


class DeadImage(Behaviour):
    """Release 2 never comes up at all on this machine."""

    def comes_up(self, slot: Slot, release: int, boots: int) -> bool:
        return release != 2


class Unhealthy(Behaviour):
    """Release 2 comes up in the working slot, but nobody can log in."""

    def healthy(self, slot: Slot, release: int, boots: int) -> bool:
        return not (slot is Slot.WORKING and release == 2)


class DeadWorking3(Unhealthy):
    """Neither release 2 nor release 3 works in the working slot."""

    def comes_up(self, slot: Slot, release: int, boots: int) -> bool:
        return not (slot is Slot.WORKING and release == 3)


class UnhealthyImage(Behaviour):
    """Release 2 comes up, but nobody can log in."""

    def healthy(self, slot: Slot, release: int, boots: int) -> bool:
        return release != 2


class Flaky(Behaviour):
    """Every third boot hangs, whatever is booted."""

    def comes_up(self, slot: Slot, release: int, boots: int) -> bool:
        return boots % 3 != 0

    def period(self) -> int:
        return 3


# nodes


def fresh(loader: MakeLoader, behaviour: Behaviour | None = None) -> FakeNode:
    """Flashed, never booted."""
    return FakeNode(loader, behaviour=behaviour)


def settled(loader: MakeLoader, behaviour: Behaviour | None = None) -> FakeNode:
    """Release 1 works."""
    node = FakeNode(loader)
    node.power_on()
    node.session()
    node.shut_down()
    node.power_on()
    return _done(node, behaviour)


def updated(loader: MakeLoader, behaviour: Behaviour | None = None) -> FakeNode:
    """Release 1 works, release 2 is in the image slot."""
    node = asked(settled(loader), "update", source="release-2")
    return _done(node, behaviour)


def _done(node: FakeNode, behaviour: Behaviour | None) -> FakeNode:
    node.session()
    assert last(node).state is TxnState.DONE, last(node).note
    node.shut_down()
    node.behaviour = behaviour or node.behaviour
    return node


def asked(node: FakeNode, task: str, **args: str) -> FakeNode:
    """Running, with a request in the queue."""
    node.power_on()
    node.machine.sleep(1)
    runner.submit(node.world(), task, args, requested_by="operator")
    return node


def last(node: FakeNode) -> Transaction:
    txn = Journal(node.files).load()
    assert txn is not None
    return txn


def reinstalled(loader: MakeLoader) -> FakeNode:
    """Release 2 works in both slots; release 1 is the one to go back to."""
    node = asked(updated(loader), "reinstall")
    while node.session() is Outcome.REBOOTING:
        node.shut_down()
        node.power_on()
    return _done(node, None)


def stranded(loader: MakeLoader, behaviour: Behaviour | None = None, *, then: Behaviour | None = None) -> FakeNode:
    """Release 2 never got well in the working slot, so the node stays in the image slot; release 1 is kept."""
    node = asked(updated(loader, behaviour or Unhealthy()), "reinstall")
    while node.session() is Outcome.REBOOTING:
        node.shut_down()
        node.power_on()
    assert (node.running, node.primary(), last(node).state) == (Slot.IMAGE, Slot.IMAGE, TxnState.FAILED)
    node.shut_down()
    node.behaviour = then or node.behaviour
    return node


def worn_out(loader: MakeLoader) -> FakeNode:
    """The working slot used up its tries: the image slot runs, though working is the primary."""
    node = dead(loader, when="offer")
    while True:
        node.power_on()
        if node.session() is not Outcome.REBOOTING:
            break
        node.shut_down()
    assert (node.running, node.primary()) == (Slot.IMAGE, Slot.WORKING)
    node.shut_down()
    return node


def cancelled(node: FakeNode, before: str) -> FakeNode:
    node.cancel_before = before
    return node


def dead(loader: MakeLoader, *, when: str) -> FakeNode:
    """The working slot worked, then lost a block that it needs."""
    node = FakeNode(loader, when_working_dead=when)
    node.power_on()
    node.session()
    node.shut_down()
    node.power_on()
    node = _done(node, None)
    start, _ = node.disks.kernel[NUMBERS[Slot.WORKING]]
    node.disks.medium.write(start + BLOCK, bytes(BLOCK))
    node.disks.medium.flush()
    return node


def stale(loader: MakeLoader) -> FakeNode:
    """A boot of the image slot was armed, and nobody knows why."""
    node = settled(loader)
    node.power_on()
    node.loader.backend(node.running).try_once(Slot.IMAGE)
    node.shut_down()
    return node


# judgements


def judge(*, task: str, done: int, done_image: int = 0, failed: dict[int, str] | None = None,
          patience: int = 99, always: bool = False) -> Judge:
    """`done`: release that the working slot must run after success, `done_image` that of the image slot (0: the
    same). `failed`: where the node may be after a failure: release of the working slot → what to call it; 0 stands
    for staying in the image slot. `patience`: so many crashes never lead to a failure. `always`: the world is bad,
    success would be a lie."""

    def look(node: FakeNode, crashes: int) -> str:
        txn, duty = last(node), duties.decide(node.world(), last(node))
        state = node.loader.backend(node.running).state()
        assert txn.task == task, f"the last transaction is {txn.task}"
        assert state.armed is None, f"{state.armed} is armed at rest"
        if node.running is not state.primary:  # so many boots were lost that the working slot has no tries any more
            assert crashes > 2 and failed and 0 in failed, (
                f"at rest in {node.running}, but the primary is {state.primary}: {duty.why}")
            return judge_offer(node, crashes)
        working = node._content(Slot.WORKING)
        if txn.state is TxnState.DONE:
            assert not always, "it cannot have succeeded"
            return _succeeded(node, done, done_image or done)
        assert txn.state in (TxnState.FAILED, TxnState.CANCELLED), f"at rest, but {txn.state}"
        assert txn.note, "not explained"
        assert crashes > patience or failed, f"it failed: {txn.note}"
        at = working if node.running is Slot.WORKING else 0
        assert failed is None or at in failed, f"{txn.state} in {node.running} with release {working}: {txn.note}"
        if node.running is Slot.IMAGE:
            assert duty.why and duty.hint, "the node stays in the image slot without saying why"
        return f"{txn.state} {(failed or {}).get(at, '')}".strip()

    return look


def _succeeded(node: FakeNode, done: int, done_image: int) -> str:
    working, image = node.world().slots.status(Slot.WORKING), node.world().slots.status(Slot.IMAGE)
    assert node.running is Slot.WORKING and node._content(Slot.WORKING) == done, (
        f"done, but {node.running} runs, and working holds release {node._content(Slot.WORKING)}")
    assert (working.state, working.release) == (SlotState.OK, done), working
    assert node._content(Slot.IMAGE) == done_image, f"image holds release {node._content(Slot.IMAGE)}"
    assert_ok(image, done_image)
    assert node.world().slots.release_floor() >= done
    tries = node.loader.backend(node.running).state().tries_left
    assert tries in (None, node.settings.boot.tries), f"{tries} tries left"
    assert node.identity.kept or node.files.names("identity"), "the identity was not kept"
    return "done"


def assert_ok(status: SlotStatus, release: int) -> None:
    assert (status.state, status.release) == (SlotState.OK, release), status


def judge_offer(node: FakeNode, crashes: int) -> str:
    """The image slot runs because working cannot; the node says so and waits for a word."""
    duty = duties.decide(node.world(), last(node))
    state = node.loader.backend(node.running).state()
    assert (node.running, state.primary, state.tries_left) == (Slot.IMAGE, Slot.WORKING, 0)
    assert "used up its boot tries" in duty.why and "reinstall" in duty.hint and duty.action is duties.Action.NONE
    return "offered"


Scenario = tuple[Callable[[MakeLoader], FakeNode], Judge]


def explore(name: str, scenario: Scenario, loader: str, *samples: float) -> None:
    """Prints the figures."""
    make, verdict = scenario
    started = time.process_time()
    figures = Explorer(verdict, samples).explore(make(LOADERS[loader]))
    print(f"\n{name} ({loader}): {figures}; {time.process_time() - started:.1f} s", flush=True)
