"""One transaction: order, tries, deadlines, holds, hooks, cancel, stop, reboots and how it ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from k8r_agent.engine import Engine, Outcome, Stopped
from k8r_agent.errors import (
    BundleError,
    CommandFailed,
    ConfigError,
    DiskAmbiguous,
    FetchError,
    K8rError,
    NoState,
    NothingToDo,
    Protected,
    Refused,
    SlotBusy,
    StateError,
)
from k8r_agent.model.task import StepRule, Task
from k8r_agent.model.txn import Event, Transaction, TxnState
from k8r_agent.ports.step import World
from k8r_agent.store.events import EventLog
from k8r_agent.store.journal import Journal
from tests.fakes.simple import Clock, Listener, SimpleMachine, ToyStep, reboot, simple_world
from tests.fakes.statefiles import FakeStateFiles

Effect = Callable[[World], None]


@dataclass
class Bench:
    """A task of toy steps a, b, c…, and what came of it."""

    effects: dict[str, Effect | None]
    rules: dict[str, StepRule] = field(default_factory=dict)
    point: str = ""
    undo: tuple[str, ...] = ()
    world: World = field(default_factory=simple_world)
    shared: set[str] = field(default_factory=set)
    stop: Callable[[], bool] = lambda: False
    hooks: Any = None

    def __post_init__(self) -> None:
        self.steps = {name: ToyStep(name, self.shared, effect) for name, effect in self.effects.items()}
        names = tuple(n for n in self.effects if n not in self.undo)
        self.task = Task(name="toy", summary="", steps=names, on_failure=self.undo, rules=self.rules,
                         point_of_no_return=self.point)
        self.txn = Transaction(id="t1", task="toy", steps=names, started=self.machine.clock.time)
        Journal(self.world.files).save(self.txn)

    @property
    def machine(self) -> SimpleMachine:
        assert isinstance(self.world.machine, SimpleMachine)
        return self.world.machine

    @property
    def clock(self) -> Clock:
        return self.machine.clock

    def drive(self) -> Outcome:
        engine = Engine(world=self.world, task=self.task, steps=self.steps, hooks=self.hooks,
                        sleep=self.clock.sleep, stop=self.stop)
        return engine.drive(self.journal)

    @property
    def journal(self) -> Transaction:
        txn = Journal(self.world.files).load()
        assert txn is not None
        return txn

    def events(self, step: str = "") -> list[Event]:
        return [e for e in EventLog(self.world.files).read() if not step or e.step == step]

    def kinds(self, step: str) -> list[str]:
        return [e.kind for e in self.events(step)]


def fails(error: Exception, *, times: int = 10**6) -> Effect:
    left = [times]

    def effect(world: World) -> None:
        if left[0]:
            left[0] -= 1
            raise error
    return effect


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
    assert bench.journal.note == "a: gave up after 4 tries: no route: unplugged; plug it in"
    assert bench.events()[-1].kind == "failed" and bench.events()[-1].message == bench.journal.note


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


def test_without_a_state_partition_the_node_does_not_reboot() -> None:
    bench = Bench({"a": reboot}, world=simple_world(files=FakeStateFiles(on_partition=False)))
    assert bench.drive() is Outcome.FAILED
    assert bench.machine.reboots == 0 and bench.journal.facts["error"] == "no-state"


def test_a_reboot_that_is_forbidden_is_a_failed_try() -> None:
    bench = Bench({"a": reboot}, rules={"a": StepRule(max_tries=2)})
    bench.machine.reboot_error = CommandFailed("logind refuses")
    assert bench.drive() is Outcome.FAILED and "logind refuses" in bench.journal.note


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


# cancel and stop


def asks_cancel(world: World) -> None:
    Journal(world.files).ask_cancel("t1")


def test_cancel_between_steps_undoes_and_ends() -> None:
    bench = Bench({"a": asks_cancel, "b": None, "undo": None}, undo=("undo",))
    assert bench.drive() is Outcome.CANCELLED
    assert bench.steps["b"].applied == 0 and bench.steps["undo"].applied == 1
    assert bench.journal.cancel and bench.journal.note == "cancelled on request"
    assert bench.world.files.read("cancel") is None


def test_cancel_is_met_in_the_middle_of_a_long_step() -> None:
    def long(world: World) -> None:
        for n in range(100):
            bench.clock.sleep(0.5)
            world.report.progress(n, 100)
            if n == 10:
                asks_cancel(world)

    bench = Bench({"a": long})
    assert bench.drive() is Outcome.CANCELLED
    listener = bench.world.report
    assert isinstance(listener, Listener) and len(listener.bytes) < 15


def test_cancel_is_refused_after_the_point_of_no_return() -> None:
    def long(world: World) -> None:
        asks_cancel(world)
        bench.clock.sleep(10)
        world.report.progress(1, 2)

    bench = Bench({"a": None, "point": None, "b": long}, point="point")
    assert bench.drive() is Outcome.DONE
    assert any("cannot be cancelled any more" in e.message for e in bench.events())
    assert bench.world.files.read("cancel") is None


def test_a_stop_ends_neither_the_transaction_nor_costs_it_a_try() -> None:
    stop = [False]

    def long(world: World) -> None:
        if bench.steps["a"].applied < 5:
            stop[0] = True
            world.report.progress(1, 2)

    bench = Bench({"a": long}, stop=lambda: stop[0], rules={"a": StepRule(max_tries=2)})
    for _ in range(4):
        assert bench.drive() is Outcome.STOPPED
        assert bench.journal.state is TxnState.RUNNING and bench.journal.tries == {"a": 1}
        stop[0] = False
    assert bench.drive() is Outcome.DONE


def test_a_stop_is_no_ordinary_exception() -> None:
    assert not issubclass(Stopped, Exception)


# endings


def test_what_is_undone_after_a_failure_may_fail_itself() -> None:
    bench = Bench({"a": fails(Refused("no")), "undo1": fails(FetchError("bad")), "undo2": None},
                  undo=("undo1", "undo2"))
    assert bench.drive() is Outcome.FAILED
    assert bench.steps["undo2"].applied == 1 and bench.journal.note == "no"


def test_nothing_to_do_is_an_answer() -> None:
    bench = Bench({"a": fails(NothingToDo("release 2 is there already")), "b": None})
    assert bench.drive() is Outcome.DONE
    assert bench.journal.note == "release 2 is there already" and bench.journal.facts["outcome"] == "nothing-to-do"
    assert bench.steps["b"].applied == 0


def test_nothing_to_do_in_the_middle_is_a_failure() -> None:
    bench = Bench({"a": None, "b": fails(NothingToDo("what?"))})
    assert bench.drive() is Outcome.FAILED


def test_an_ended_transaction_is_left_alone() -> None:
    bench = Bench({"a": None})
    Journal(bench.world.files).save(replace(bench.txn, state=TxnState.CANCELLED))
    assert bench.drive() is Outcome.CANCELLED and bench.steps["a"].applied == 0


# hooks


@dataclass
class FakeHooks:
    errors: dict[tuple[str, str], K8rError] = field(default_factory=dict)
    ran: list[tuple[str, str]] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)

    def run(self, task: str, when: str, step: str, facts: Any) -> tuple[str, ...]:
        self.ran.append((when, step))
        self.facts = dict(facts)
        if (when, step) in self.errors:
            raise self.errors[when, step]
        return ()


def test_hooks_run_around_each_step_that_does_something() -> None:
    hooks = FakeHooks()
    bench = Bench({"a": None, "b": None, "c": None}, hooks=hooks, shared={"b"})
    assert bench.drive() is Outcome.DONE
    assert hooks.ran == [("before", "a"), ("after", "a"), ("before", "c"), ("after", "c")]
    assert hooks.facts["txn"] == "t1" and hooks.facts["slot"] == "working"


def test_a_hook_before_can_end_it() -> None:
    bench = Bench({"a": None, "b": None}, hooks=FakeHooks({("before", "b"): CommandFailed("exit code 1")}))
    assert bench.drive() is Outcome.FAILED
    assert bench.steps["b"].applied == 0 and "a hook before b said no: exit code 1" in bench.journal.note


def test_after_the_point_of_no_return_a_hook_before_costs_a_try() -> None:
    bench = Bench({"p": None, "b": None}, point="p", rules={"b": StepRule(max_tries=5)},
                  hooks=FakeHooks({("before", "b"): CommandFailed("exit code 1")}))
    assert bench.drive() is Outcome.FAILED
    assert bench.journal.tries["b"] == 5


def test_a_hook_after_only_warns() -> None:
    bench = Bench({"a": None}, hooks=FakeHooks({("after", "a"): CommandFailed("exit code 1")}))
    assert bench.drive() is Outcome.DONE
    assert "a hook after a failed: exit code 1" in [e.message for e in bench.events("a")]


def test_a_hook_after_a_reboot_step_runs_in_the_next_boot() -> None:
    hooks = FakeHooks()
    bench = Bench({"a": reboot}, hooks=hooks)
    bench.drive()
    assert hooks.ran == [("before", "a")]
    bench.shared.add("a")
    bench.drive()
    assert hooks.ran == [("before", "a"), ("after", "a")]
