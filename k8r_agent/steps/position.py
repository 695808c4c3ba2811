"""Where a transaction is, read from the world; and whether it can still be cancelled."""

from __future__ import annotations

from collections.abc import Mapping

from k8r_agent.errors import K8rError, Refused, StepFailed
from k8r_agent.model.task import Task
from k8r_agent.model.txn import Transaction
from k8r_agent.ports.step import Step, World


class Unobservable(Exception):
    """A step could not say whether it is done: `error` says why, and is always something a user can be told."""

    def __init__(self, step: str, error: K8rError) -> None:
        super().__init__(str(error))
        self.step, self.error = step, error


def position(txn: Transaction, task: Task, steps: Mapping[str, Step], world: World) -> int:
    """Index of the step to attempt; len(steps) when the last one is attempted and done: it alone decides. Raises
    Unobservable.

    A condition that no longer holds pulls the position back to it, until those that must hold there do."""
    names = txn.steps
    passed = [i for i, n in enumerate(names) if txn.tries.get(n) and n in steps and _done(steps[n], world)]
    at = max(passed, default=-1) + 1
    if at >= len(names):
        return at
    for i in reversed(range(at)):
        until = task.rule(names[i]).holds_until
        held = until in names and at <= names.index(until)
        if held and names[i] in steps and i not in passed:
            at = i
    return at


def _done(step: Step, world: World) -> bool:
    try:
        return step.done(world)
    except Exception as error:
        raise Unobservable(step.name, typed(step.name, error)) from error


def typed(name: str, error: Exception) -> K8rError:
    """What a step raised, as something a user can be told: a mistake of ours must not end the runner unexplained."""
    if isinstance(error, K8rError):
        return error
    return StepFailed(f"internal error in {name}", why=f"{type(error).__name__}: {error}")


def refusal(txn: Transaction, task: Task) -> Refused:
    """Why a transaction cannot be cancelled any more."""
    return Refused(f"{txn.task} cannot be cancelled any more",
                   why=f"{task.point_of_no_return} was begun: the old system is given up, only going on leads to one",
                   hint="follow it with `k8r-agent task watch`")


def may_cancel(txn: Transaction, task: Task) -> bool:
    return not (task.point_of_no_return and txn.tries.get(task.point_of_no_return, 0) > 0)
