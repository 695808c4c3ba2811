"""How a transaction ends: cancelled, stopped, failed, with nothing to do; and what hooks have to say."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from k8r_agent.engine import Outcome, Stopped
from k8r_agent.errors import CommandFailed, FetchError, K8rError, NothingToDo, Refused
from k8r_agent.model.task import StepRule
from k8r_agent.model.txn import TxnState
from k8r_agent.ports.step import World
from k8r_agent.store.journal import Journal
from tests.fakes.enginebench import Bench, fails
from tests.fakes.simple import Listener, reboot

# cancel and stop


def asks_cancel(world: World) -> None:
    Journal(world.files).ask_cancel("t1")


def test_cancel_between_steps_undoes_and_ends() -> None:
    bench = Bench({"a": asks_cancel, "b": None, "undo": None}, undo=("undo",))
    assert bench.drive() is Outcome.CANCELLED
    assert bench.steps["b"].applied == 0 and bench.steps["undo"].applied == 1
    assert bench.journal.cancel and bench.journal.note == "cancelled on request"
    assert bench.world.files.read("cancel") is None


def waits(world: World) -> None:
    for n in range(30):
        world.machine.clock.sleep(1)  # type: ignore[attr-defined]
        world.report.progress(n, 30)


def test_what_is_undone_after_a_cancel_is_not_cancelled() -> None:
    bench = Bench({"a": asks_cancel, "b": None, "undo": waits}, undo=("undo",))
    assert bench.drive() is Outcome.CANCELLED
    assert [event.message for event in bench.events("undo")] == ["done after the failure"]


def test_what_is_undone_after_a_step_took_too_long_has_time_of_its_own() -> None:
    def slow(world: World) -> None:
        bench.clock.sleep(60)
        world.report.progress(0, 1)

    bench = Bench({"a": slow, "undo": waits}, undo=("undo",), rules={"a": StepRule(timeout=55, max_tries=1)})
    assert bench.drive() is Outcome.FAILED
    assert [event.message for event in bench.events("undo")] == ["done after the failure"]


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


def test_a_hook_before_the_point_of_no_return_still_ends_it() -> None:
    bench = Bench({"a": None, "p": None, "b": None}, point="p", rules={"p": StepRule(max_tries=5)},
                  hooks=FakeHooks({("before", "p"): CommandFailed("exit code 1")}))
    assert bench.drive() is Outcome.FAILED
    assert bench.steps["p"].applied == 0 and bench.journal.tries["p"] == 1


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
