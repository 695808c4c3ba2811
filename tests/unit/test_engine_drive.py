"""One transaction: order, tries, deadlines, holds, hooks, cancel, stop, reboots and how it ends."""

from __future__ import annotations

from dataclasses import replace

import pytest

from k8r_agent.engine import Outcome, Stopped
from k8r_agent.errors import (
    BundleError,
    CommandFailed,
    ConfigError,
    DiskAmbiguous,
    FetchError,
    K8rError,
    NoState,
    Protected,
    Refused,
    SlotBusy,
    StateError,
)
from k8r_agent.model.task import StepRule
from k8r_agent.model.txn import TxnState
from k8r_agent.ports.step import World
from k8r_agent.store.events import EventLog
from k8r_agent.store.journal import Journal
from tests.fakes.enginebench import Bench, fails
from tests.fakes.simple import Listener, reboot, simple_world
from tests.fakes.statefiles import FakeStateFiles


def test_steps_run_in_order_with_events_and_durations() -> None:
    order: list[str] = []
    bench = Bench({n: lambda w, n=n: order.append(n) for n in "abc"})  # type: ignore[misc]
    bench.clock.tick = 1.0
    assert bench.drive() is Outcome.DONE
    assert order == ["a", "b", "c"]
    assert bench.journal.state is TxnState.DONE and bench.journal.ended > bench.journal.started
    for name in "abc":
        assert bench.kinds(name) == ["started", "succeeded"] and bench.events(name)[1].duration > 0
    assert bench.events()[-1].kind == "succeeded" and bench.events()[-1].step == ""


def test_an_attempt_is_durable_before_its_effect() -> None:
    files = FakeStateFiles()

    def look(world: World) -> None:
        files.power_cut()
        assert Journal(files).load().tries == {"a": 1}  # type: ignore[union-attr]

    assert Bench({"a": look}, world=simple_world(files=files)).drive() is Outcome.DONE


def test_a_step_that_is_done_is_not_applied_again() -> None:
    bench = Bench({"a": None, "b": None}, shared={"a"})
    assert bench.drive() is Outcome.DONE
    assert bench.steps["a"].applied == 0 and bench.events("a")[-1].message == "nothing to do"


@pytest.mark.parametrize("error", [FetchError("x"), SlotBusy("x"), CommandFailed("x"), StateError("x")])
def test_what_may_pass_is_tried_again_after_a_pause(error: K8rError) -> None:
    bench = Bench({"a": fails(error, times=2), "b": None})
    before = bench.clock.time
    assert bench.drive() is Outcome.DONE
    assert bench.kinds("a") == ["started", "failed", "started", "failed", "started", "succeeded"]
    assert bench.clock.time - before == 2 + 4


@pytest.mark.parametrize("error", [Refused("no"), Protected("no"), DiskAmbiguous("no"), ConfigError("no"),
                                   BundleError("no"), NoState("no")])
def test_what_cannot_pass_ends_it_at_once(error: K8rError) -> None:
    bench = Bench({"a": fails(error), "b": None})
    assert bench.drive() is Outcome.FAILED
    assert bench.steps["a"].applied == 1 and bench.steps["b"].applied == 0
    assert bench.journal.facts["error"] == error.code and "no" in bench.journal.note


def test_tries_are_limited_and_the_note_says_why() -> None:
    bench = Bench({"a": fails(FetchError("no route", why="unplugged", hint="plug it in"))},
                  rules={"a": StepRule(max_tries=4)})
    assert bench.drive() is Outcome.FAILED
    assert bench.steps["a"].applied == 4
    assert bench.journal.note == "a: gave up after 4 tries: no route: unplugged"
    assert bench.journal.facts["error"] == "fetch-failed" and bench.journal.facts["hint"] == "plug it in"
    assert bench.events()[-1].kind == "failed"
    assert bench.events()[-1].message == "a: gave up after 4 tries: no route: unplugged; plug it in"


def test_the_remedy_of_what_cannot_pass_is_told_once() -> None:
    bench = Bench({"a": fails(BundleError("bad", hint="take another"))})
    assert bench.drive() is Outcome.FAILED
    assert bench.journal.note == "bad" and bench.journal.facts["hint"] == "take another"
    assert [event.message for event in bench.events() if "take another" in event.message] == ["bad; take another"]


def test_a_step_without_visible_effect_is_no_success() -> None:
    bench = Bench({"a": None})
    bench.steps["a"].sticks = False
    assert bench.drive() is Outcome.FAILED
    assert bench.steps["a"].applied == 3 and "does not show its effect" in bench.journal.note


def test_a_mistake_of_ours_is_explained_like_any_failure() -> None:
    bench = Bench({"a": fails(ZeroDivisionError("oops"))})
    assert bench.drive() is Outcome.FAILED
    assert "ZeroDivisionError: oops" in bench.journal.note


def test_an_unknown_step_is_explained() -> None:
    bench = Bench({"a": None})
    Journal(bench.world.files).save(replace(bench.txn, steps=("a", "drain"), agent="9.9"))
    assert bench.drive() is Outcome.FAILED
    assert "no step 'drain'" in bench.journal.note and "9.9" in bench.journal.note


def test_a_condition_that_stops_holding_is_restored() -> None:
    lost = [True]

    def lose(world: World) -> None:
        if lost.pop() if lost else False:
            bench.shared.discard("a")
            raise FetchError("while a was lost")

    bench = Bench({"a": None, "b": lose, "c": None}, rules={"a": StepRule(holds_until="c")})
    assert bench.drive() is Outcome.DONE
    assert bench.steps["a"].applied == 2


def test_pulled_back_to_one_condition_the_earlier_ones_are_looked_at_again() -> None:
    def lose(world: World) -> None:
        if "b2" not in bench.shared:
            bench.shared.difference_update({"a", "b"})
            bench.shared.add("b2")
            raise FetchError("both lost")

    rules = {"a": StepRule(holds_until="b"), "b": StepRule(holds_until="c")}
    bench = Bench({"a": None, "b": None, "c": lose}, rules=rules)
    assert bench.drive() is Outcome.DONE
    assert (bench.steps["a"].applied, bench.steps["b"].applied, bench.steps["c"].applied) == (2, 2, 2)


def test_a_milestone_that_is_undone_later_stays_passed() -> None:
    def undo(world: World) -> None:
        bench.shared.discard("a")

    bench = Bench({"a": None, "b": undo, "c": None})
    assert bench.drive() is Outcome.DONE
    assert bench.steps["a"].applied == 1


def test_a_step_that_takes_too_long_fails_at_its_next_progress() -> None:
    def slow(world: World) -> None:
        for n in range(100):
            bench.clock.sleep(10)
            world.report.progress(n, 100)

    bench = Bench({"a": slow}, rules={"a": StepRule(timeout=55, max_tries=1)})
    assert bench.drive() is Outcome.FAILED
    assert "its time limit is up" in bench.journal.note
    listener = bench.world.report
    assert isinstance(listener, Listener) and len(listener.bytes) == 5


def test_facts_are_durable_when_remembered() -> None:
    def remember(world: World) -> None:
        world.remember("release", "7")
        assert bench.journal.facts["release"] == "7" and world.recall("release") == "7"

    bench = Bench({"a": remember})
    assert bench.drive() is Outcome.DONE and bench.journal.facts["release"] == "7"


# reboots


def test_a_reboot_is_one_step_with_one_duration() -> None:
    bench = Bench({"a": reboot, "b": None})
    assert bench.drive() is Outcome.REBOOTING
    assert bench.machine.reboots == 1 and bench.steps["b"].applied == 0 and bench.journal.state is TxnState.RUNNING
    bench.machine.boot += 1
    bench.clock.sleep(40)
    bench.shared.add("a")
    assert bench.drive() is Outcome.DONE
    assert bench.kinds("a") == ["started", "note", "succeeded"] and bench.events("a")[-1].duration == 40
    assert bench.events("a")[-1].boot_id == "boot-2"


def test_a_boot_that_fell_back_is_a_failed_try() -> None:
    bench = Bench({"a": reboot, "b": None}, rules={"a": StepRule(max_tries=2)})
    for _ in range(2):
        assert bench.drive() is Outcome.REBOOTING
        bench.machine.boot += 1
    assert bench.drive() is Outcome.FAILED
    assert bench.machine.reboots == 2 and "gave up after 2 tries" in bench.journal.note
    assert bench.kinds("a") == ["started", "note", "failed"] * 2


def test_a_boot_that_came_through_and_was_left_again_is_explained() -> None:
    """The new system comes up, is not well, and its deadline takes it down: the node is back where it was."""
    def stopped(world: World) -> None:
        raise Stopped

    bench = Bench({"a": reboot, "b": stopped}, rules={"a": StepRule(max_tries=1, holds_until="b")})
    bench.steps["a"].explain = lambda world: "it did not stay up"  # type: ignore[attr-defined]
    assert bench.drive() is Outcome.REBOOTING
    bench.shared.add("a")
    assert bench.drive() is Outcome.STOPPED
    bench.shared.discard("a")
    assert bench.drive() is Outcome.FAILED
    assert bench.journal.note == "a: gave up after 1 try: it did not stay up"


def test_without_a_state_partition_the_node_does_not_reboot() -> None:
    bench = Bench({"a": reboot}, world=simple_world(files=FakeStateFiles(on_partition=False)))
    assert bench.drive() is Outcome.FAILED
    assert bench.machine.reboots == 0 and bench.journal.facts["error"] == "no-state"


def test_a_reboot_that_is_forbidden_is_a_failed_try() -> None:
    bench = Bench({"a": reboot}, rules={"a": StepRule(max_tries=2)})
    bench.machine.reboot_error = CommandFailed("logind refuses")
    assert bench.drive() is Outcome.FAILED and "logind refuses" in bench.journal.note


def test_what_a_step_said_is_not_forgotten_for_an_interruption() -> None:
    """The deadline of a boot ends the last try of its health check: what is not well is still the reason."""
    class Killed(BaseException):
        pass

    def sick(world: World) -> None:
        if bench.steps["a"].applied == 3:
            raise Killed
        raise FetchError("SSH does not answer")

    bench = Bench({"a": sick})
    with pytest.raises(Killed):
        bench.drive()
    assert bench.drive() is Outcome.FAILED
    assert bench.journal.note == "a: gave up after 3 tries: SSH does not answer"
    assert "interrupted" in bench.events("a")[-1].message


def test_an_interrupted_step_is_closed_in_the_log_and_costs_a_try() -> None:
    class Killed(BaseException):
        pass

    bench = Bench({"a": fails(Killed(), times=1)})  # type: ignore[arg-type]
    with pytest.raises(Killed):
        bench.drive()
    bench.clock.sleep(7)
    assert bench.drive() is Outcome.DONE
    assert bench.kinds("a") == ["started", "failed", "started", "succeeded"]
    assert bench.events("a")[1].duration == 7 and bench.journal.tries == {"a": 2}


def test_an_event_log_that_cannot_be_read_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It explains; nothing stands on it."""
    def unreadable(self: EventLog, **more: object) -> None:
        raise StateError("events.jsonl cannot be read", why="Input/output error")

    bench = Bench({"a": None})
    monkeypatch.setattr(EventLog, "read", unreadable)
    assert bench.drive() is Outcome.DONE
