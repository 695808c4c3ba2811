"""Exceptions that nobody foresaw, wherever the engine asks a step, a hook or a port: each ends as something a user can
be told, is counted, and never goes on for ever."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from k8r_agent.engine import Outcome
from k8r_agent.errors import StepFailed
from k8r_agent.model.task import StepRule
from k8r_agent.ports.step import World
from tests.fakes.enginebench import Bench
from tests.fakes.simple import ToyStep, reboot

MISTAKES = [OSError(5, "Input/output error"), KeyError("x"), StepFailed("not now")]


class Blind(ToyStep):
    """Cannot be looked at any more once `blind(self)` is true."""

    error: Exception = OSError(5, "Input/output error")
    looks = 0
    blind: Callable[[Blind], bool] = staticmethod(lambda step: step.applied > 0)

    def done(self, world: World) -> bool:
        if self.blind(self):
            self.looks += 1
            raise self.error
        return super().done(world)


def blind(bench: Bench, name: str, error: Exception, when: Callable[[Blind], bool] | None = None) -> Blind:
    step = Blind(name, bench.shared, bench.effects[name])
    step.error = error
    if when:
        step.blind = when
    bench.steps[name] = step
    return step


@pytest.mark.parametrize("error", MISTAKES)
def test_a_step_that_cannot_be_observed_fails_the_transaction_and_is_named(error: Exception) -> None:
    bench = Bench({"a": None, "b": None, "undo": None}, undo=("undo",))
    step = blind(bench, "b", error)
    assert bench.drive() is Outcome.FAILED
    assert bench.journal.facts["failed-step"] == "b" and bench.journal.facts["error"] == "step-failed"
    assert str(error) in bench.journal.note and bench.steps["undo"].applied == 1
    assert step.looks <= 3 * 3 + 1 and sum(bench.journal.tries.values()) <= 4
    assert bench.drive() is Outcome.FAILED, "the verdict stays"


def test_a_step_that_can_be_observed_again_goes_on() -> None:
    bench = Bench({"a": None, "b": None})
    blind(bench, "a", OSError(5, "Input/output error"), lambda step: step.applied > 0 and step.looks < 1)
    assert bench.drive() is Outcome.DONE


@pytest.mark.parametrize("error", MISTAKES)
def test_a_boot_that_cannot_be_looked_at_afterwards_is_a_failed_try(error: Exception) -> None:
    bench = Bench({"a": reboot, "b": None}, rules={"a": StepRule(max_tries=2)})
    step = blind(bench, "a", error, lambda step: bench.machine.boot == 2)
    assert bench.drive() is Outcome.REBOOTING
    bench.machine.boot += 1
    assert bench.drive() is Outcome.FAILED and step.looks == 4
    assert bench.kinds("a")[:3] == ["started", "note", "failed"] and str(error) in bench.events("a")[2].message


def test_an_explanation_that_cannot_be_given_does_not_end_the_runner() -> None:
    def explain(world: World) -> str:
        raise OSError(5, "Input/output error")

    bench = Bench({"a": reboot, "b": None}, rules={"a": StepRule(max_tries=1)})
    bench.steps["a"].explain = explain  # type: ignore[attr-defined]
    assert bench.drive() is Outcome.REBOOTING
    assert bench.drive() is Outcome.FAILED and "Input/output error" in bench.journal.note


class Hooks:
    def __init__(self, when: str) -> None:
        self.when = when

    def run(self, task: str, when: str, step: str, facts: Any) -> tuple[str, ...]:
        if when == self.when:
            raise OSError(13, "Permission denied")
        return ()


@pytest.mark.parametrize(("when", "outcome"), [("before", Outcome.FAILED), ("after", Outcome.DONE)])
def test_a_hook_that_cannot_even_be_started(when: str, outcome: Outcome) -> None:
    bench = Bench({"a": None}, hooks=Hooks(when))
    assert bench.drive() is outcome
    assert any("Permission denied" in event.message for event in bench.events("a"))


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), ValueError("odd")])
def test_what_cannot_be_undone_is_noted(error: Exception) -> None:
    def fail(world: World) -> None:
        raise StepFailed("no")

    bench = Bench({"a": fail, "undo": None}, undo=("undo",))
    blind(bench, "undo", error, lambda step: True)
    assert bench.drive() is Outcome.FAILED
    assert str(error) in bench.events("undo")[-1].message and "no" in bench.journal.note


def test_neither_a_reboot_nor_the_log_may_raise_what_nobody_expects() -> None:
    bench = Bench({"a": reboot}, rules={"a": StepRule(max_tries=2)})
    bench.machine.reboot_error = OSError(107, "Transport endpoint is not connected")
    bench.world.boot.state = _broken  # type: ignore[method-assign]
    assert bench.drive() is Outcome.FAILED and "not connected" in bench.journal.note
    assert {event.slot for event in bench.events()} == {""}


def _broken() -> Any:
    raise OSError(5, "Input/output error")
