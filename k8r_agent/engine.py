"""Drives one transaction. Where to go on is read from the world, not from a stored cursor.

A step is a milestone (passed once this transaction attempted it and the world shows it done) or a condition with
`holds_until`: when it stops holding, the position moves back to it. Each attempt is durable before its effect, and
a per-step limit ends every loop.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol

from k8r_agent.errors import (
    BundleError,
    Cancelled,
    ConfigError,
    DiskAmbiguous,
    DiskTooSmall,
    K8rError,
    NoState,
    NothingToDo,
    Protected,
    Refused,
    StateError,
    StepFailed,
    UsageError,
)
from k8r_agent.model.task import Task
from k8r_agent.model.txn import Event, Transaction, TxnState
from k8r_agent.model.units import format_duration
from k8r_agent.ports.machine import Reporter
from k8r_agent.ports.step import RebootRequested, Step, World
from k8r_agent.steps.position import Unobservable, may_cancel, position, refusal, typed
from k8r_agent.store.events import EventLog
from k8r_agent.store.hooks import Hooks
from k8r_agent.store.journal import Journal

PERMANENT = (Refused, Protected, DiskAmbiguous, DiskTooSmall, ConfigError, BundleError, NoState, UsageError)
# Facts: what the latest failed attempt said, for the note that ends the transaction; its cause's code and remedy.
LAST_ERROR, LAST_CODE, LAST_HINT = "last-error", "last-code", "last-hint"
_PAUSE, _LONGEST_PAUSE = 2, 60  # seconds before a second attempt, doubled for each later one
_POSITION_TRIES = 3
_INTERRUPTED = "interrupted"
_MARGIN = 900.0  # seconds: a step that can end itself at its limit is not killed for it, nor are hooks and a pause

log = logging.getLogger(__name__)


class Outcome(str, enum.Enum):
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REBOOTING = "rebooting"  # the transaction goes on in the next boot
    STOPPED = "stopped"  # the agent was asked to stop; the transaction goes on when it starts again


_OUTCOMES = {TxnState.DONE: Outcome.DONE, TxnState.FAILED: Outcome.FAILED, TxnState.CANCELLED: Outcome.CANCELLED}


class Stopped(BaseException):
    """The agent was asked to stop, met between two pieces of a long step."""


class HookRunner(Protocol):
    def run(self, task: str, when: str, step: str, facts: Mapping[str, str]) -> tuple[str, ...]: ...


class Engine:
    def __init__(self, *, world: World, task: Task, steps: Mapping[str, Step], hooks: HookRunner | None = None,
                 sleep: Callable[[float], None] = lambda seconds: None,
                 stop: Callable[[], bool] = lambda: False,
                 allow: Callable[[float], None] = lambda seconds: None) -> None:
        """`allow` learns how many seconds the next piece of work may take: what feeds the service watchdog asks."""
        self.world, self.task, self.steps = world, task, steps
        self._hooks = hooks or Hooks(None)
        self._sleep, self._stop, self._allow = sleep, stop, allow
        self._journal, self._events = Journal(world.files), EventLog(world.files)

    def drive(self, txn: Transaction) -> Outcome:
        """Run `txn` until it ends or the node reboots. Only StateError of the journal itself is raised."""
        world, report = self.world, self.world.report
        world.txn, world.remember_fact, world.report = txn, self._remember, _Guard(self, report)
        world.seen.clear()  # somebody else may have had the lock since the last transaction
        try:
            if txn.state is TxnState.RUNNING:
                self._settle()
            while self._txn.state is TxnState.RUNNING:
                outcome = self._advance()
                if outcome:
                    return outcome
            return _OUTCOMES[self._txn.state]
        except Stopped:
            return Outcome.STOPPED
        finally:
            world.remember_fact, world.report = None, report
            self._allow(_MARGIN)

    # where to go on

    @property
    def _txn(self) -> Transaction:
        assert self.world.txn is not None
        return self.world.txn

    def _advance(self) -> Outcome | None:
        if self._stop():
            return Outcome.STOPPED
        if self._cancel_wanted():
            return self._end(TxnState.CANCELLED, "cancelled on request")
        try:
            at = self._position()
        except Unobservable as unknown:
            return self._fail(unknown.step, unknown.error)
        if at >= len(self._txn.steps):
            return self._end(TxnState.DONE, "")
        name = self._txn.steps[at]
        if name not in self.steps:
            return self._fail(name, StepFailed(f"this agent has no step {name!r}",
                                               why=f"the transaction was started by {self._txn.agent or 'another'}"))
        tries = self._txn.tries.get(name, 0)
        if tries >= self.task.rule(name).max_tries:
            return self._fail(name, self._given_up(name, tries))
        return self._attempt(name, tries + 1)

    def _position(self) -> int:
        for left in reversed(range(_POSITION_TRIES)):
            try:
                return position(self._txn, self.task, self.steps, self.world)
            except Unobservable as unknown:
                if not left or isinstance(unknown.error, PERMANENT):
                    raise
                self._pause(_PAUSE)
        raise AssertionError("unreachable")

    def _given_up(self, name: str, tries: int) -> K8rError:
        facts = self._txn.facts
        error = StepFailed(f"{name}: gave up after {tries} {'try' if tries == 1 else 'tries'}",
                           why=facts.get(LAST_ERROR, "").removeprefix(f"{name}: ") or self._explanation(name),
                           hint=facts.get(LAST_HINT, ""))
        error.code = facts.get(LAST_CODE) or error.code
        return error

    def _keep_cause(self, name: str, why: str, *, code: str = StepFailed.code, hint: str = "") -> None:
        self._save(replace(self._txn, facts={**self._txn.facts, LAST_ERROR: f"{name}: {why}", LAST_CODE: code,
                                             LAST_HINT: hint}))

    # one attempt

    def _attempt(self, name: str, number: int) -> Outcome | None:
        step, started = self.steps[name], self.world.machine.monotonic()
        self._allow(self.task.rule(name).timeout + _MARGIN)
        self._save(replace(self._txn, tries={**self._txn.tries, name: number}))  # durable before the effect
        self._event(name, "started", f"try {number} of {self.task.rule(name).max_tries}")
        try:
            message = self._apply(step, name)
        except RebootRequested as reboot:
            return self._reboot(name, str(reboot))
        except Stopped:
            self._event(name, "failed", "the agent was asked to stop", self._since(started))
            self._refund(name)
            raise
        except Cancelled:
            self._event(name, "failed", "cancelled on request", self._since(started))
            return None  # _advance() decides: the request is still there
        except NothingToDo as error:
            return self._nothing_to_do(name, error, self._since(started))
        except Exception as error:
            if not isinstance(error, K8rError):
                log.exception("step %s", name)
            return self._failed(name, typed(name, error), self._since(started))
        self._event(name, "succeeded", message, self._since(started))
        if not message:
            self._after(name)
        return None

    def _apply(self, step: Step, name: str) -> str:
        if step.done(self.world):
            return "nothing to do"
        self._before(name)
        self.world.report.status(step.summary)
        _guard(self.world).deadline = self.world.machine.monotonic() + self.task.rule(name).timeout
        with self.world.machine.inhibit(f"{self._txn.task}: {step.summary}"):
            step.apply(self.world)
        if not step.done(self.world):
            raise StepFailed(f"{name} ran, but the node does not show its effect")
        return ""

    def _failed(self, name: str, error: K8rError, duration: float) -> Outcome | None:
        if isinstance(error, PERMANENT):
            self._event(name, "failed", str(error), duration)  # the remedy ends the transaction's own event
            return self._fail(name, error)
        self._event(name, "failed", _sentence(error), duration)
        self._keep_cause(name, str(error), code=error.code, hint=error.hint)
        if self._txn.tries[name] < self.task.rule(name).max_tries:
            self._pause(min(_PAUSE << (self._txn.tries[name] - 1), _LONGEST_PAUSE))
        return None

    def _nothing_to_do(self, name: str, error: NothingToDo, duration: float) -> Outcome | None:
        """An answer, not a failure, as long as nothing else was begun."""
        if set(self._txn.tries) != {name}:
            return self._failed(name, Refused(error.what, why=error.why), duration)
        self._event(name, "succeeded", _sentence(error), duration)
        self._save(replace(self._txn, facts={**self._txn.facts, "outcome": error.code}))
        return self._end(TxnState.DONE, _sentence(error))

    def _refund(self, name: str) -> None:
        """A stop is nobody's failure. One try stays: that the step was begun must not be forgotten."""
        if self._txn.tries[name] > 1:
            self._save(replace(self._txn, tries={**self._txn.tries, name: self._txn.tries[name] - 1}))

    def _reboot(self, name: str, where: str) -> Outcome | None:
        if not self.world.files.persistent():
            return self._fail(name, NoState("the node does not reboot by itself", why="its journal is in memory only"))
        self._event(name, "note", f"rebooting {where}".strip())
        try:
            self.world.machine.reboot()
        except Exception as error:
            return self._failed(name, typed(name, error), 0.0)
        return Outcome.REBOOTING

    def _settle(self) -> None:
        """Close the step that a reboot or a power cut interrupted: its duration includes the boot."""
        name, since = self._open_step()
        if not name or name not in self.steps:
            return
        duration = max(0.0, self.world.machine.now() - since)
        try:
            if self.steps[name].done(self.world):
                self._event(name, "succeeded", "", duration)
                return self._after(name)
            why = self._explanation(name)
        except Exception as error:  # the same again when the position is read, where it counts
            why = f"{_INTERRUPTED}: {typed(name, error)}"
        self._event(name, "failed", why, duration)
        known = self._txn.facts.get(LAST_ERROR, "").startswith(f"{name}: ")
        if not (known and why.startswith(_INTERRUPTED)):  # why it failed before that says more
            self._keep_cause(name, why)

    def _explanation(self, name: str) -> str:
        explain = getattr(self.steps[name], "explain", None)
        try:
            return str(explain(self.world)) if explain else f"{_INTERRUPTED}: the agent or the node went down"
        except Exception as error:
            return f"{_INTERRUPTED}: {typed(name, error)}"

    def _open_step(self) -> tuple[str, float]:
        """The step that was started last and has no end in the log."""
        try:
            events = self._events.read(txn=self._txn.id)
        except StateError as error:  # the log explains; nothing stands on it
            log.warning("the event log cannot be read: %s", error)
            return "", 0.0
        for event in reversed(events):
            if event.step and event.kind == "started":
                return event.step, event.time
            if event.step and event.kind in ("succeeded", "failed"):
                break
        return "", 0.0

    # hooks

    def _before(self, name: str) -> None:
        """Up to the point of no return, which is not passed while its hook says no, a hook may end the transaction;
        afterwards that would help nobody, so it costs a try."""
        try:
            self._hooks.run(self._txn.task, "before", name, self._hook_facts())
        except Exception as error:
            kind = StepFailed if self.past_return() and name != self.task.point_of_no_return else Refused
            raise kind(f"a hook before {name} said no", why=_sentence(typed(name, error))) from error

    def _after(self, name: str) -> None:
        try:
            self._hooks.run(self._txn.task, "after", name, self._hook_facts())
        except Exception as error:
            self._event(name, "note", f"a hook after {name} failed: {_sentence(typed(name, error))}")

    def _hook_facts(self) -> dict[str, str]:
        return {"txn": self._txn.id, "slot": self._slot(),
                "release": self._txn.facts.get("release", ""), "version": self._txn.facts.get("version", "")}

    # cancelling and ending

    def past_return(self) -> bool:
        return not may_cancel(self._txn, self.task)

    def cancel_possible(self) -> bool:
        return self._journal.cancel_asked(self._txn.id) and not self.past_return()

    def _cancel_wanted(self) -> bool:
        if not self._journal.cancel_asked(self._txn.id):
            return False
        if not self.past_return():
            self._save(replace(self._txn, cancel=True))
            return True
        self._journal.drop_cancel()
        self._event("", "note", refusal(self._txn, self.task).what + ": " + refusal(self._txn, self.task).why)
        return False

    def _fail(self, name: str, error: K8rError) -> Outcome:
        self._save(replace(self._txn, facts={**self._txn.facts, "error": error.code, "failed-step": name,
                                             "why": error.why, "hint": error.hint}))
        return self._end(TxnState.FAILED, str(error), said=_sentence(error))

    def _end(self, state: TxnState, note: str, *, said: str = "") -> Outcome:
        """`said`: the note as the log has it, with the remedy that is a fact of its own elsewhere. What the task wants
        undone comes first: after a power cut in between the transaction still runs and comes to the same verdict."""
        if state is not TxnState.DONE:
            for name in self.task.on_failure:
                self._undo(name)
        now = self.world.machine.now()
        self._save(replace(self._txn, state=state, note=note, ended=now))
        self._journal.drop_cancel()
        took = max(0.0, now - self._txn.started)
        kind = "succeeded" if state is TxnState.DONE else "failed"
        self._event("", kind, said or note or f"done in {format_duration(took)}", took)
        return _OUTCOMES[state]

    def _undo(self, name: str) -> None:
        """With a time limit of its own; what asked for the end does not end this."""
        started, limit = self.world.machine.monotonic(), self.task.rule(name).timeout
        self._allow(limit + _MARGIN)
        guard = _guard(self.world)
        guard.deadline, guard.undoing = started + limit, True
        try:
            if name in self.steps and not self.steps[name].done(self.world):
                self.steps[name].apply(self.world)
                self._event(name, "note", "done after the failure", self._since(started))
        except Exception as error:
            why = error if isinstance(error, RebootRequested) else typed(name, error)
            self._event(name, "note", f"could not be done after the failure: {why}", self._since(started))

    # small things

    def _save(self, txn: Transaction) -> None:
        self.world.txn = self._journal.save(txn)

    def _remember(self, name: str, value: str) -> Transaction:
        if self._txn.facts.get(name) != value:
            self._save(replace(self._txn, facts={**self._txn.facts, name: value}))
        return self._txn

    def _since(self, started: float) -> float:
        return self.world.machine.monotonic() - started

    def _pause(self, seconds: int) -> None:
        for _ in range(seconds):
            if self._stop() or self.cancel_possible():
                return
            self._sleep(1.0)

    def _slot(self) -> str:
        """For log and hooks, which must not be the end of what they are told about."""
        try:
            return str(self.world.boot.state().current or "")
        except Exception:
            return ""

    def _event(self, step: str, kind: str, message: str = "", duration: float = 0.0) -> None:
        self._events.append(Event(
            time=self.world.machine.now(), txn=self._txn.id, task=self._txn.task, step=step, kind=kind,
            message=message, duration=round(duration, 3), slot=self._slot(), boot_id=self.world.machine.boot_id()))


class _Guard:
    """The Reporter that steps see: each progress call is where a deadline, a cancel or a stop is met."""

    def __init__(self, engine: Engine, base: Reporter) -> None:
        self._engine, self._base = engine, base
        self.deadline, self.undoing = float("inf"), False
        self._asked = float("-inf")

    def status(self, text: str) -> None:
        self._base.status(text)

    def progress(self, done: int, total: int) -> None:
        now = self._engine.world.machine.monotonic()
        if self._engine._stop():
            raise Stopped
        if now > self.deadline:
            raise StepFailed("took too long", why="its time limit is up",
                             hint="raise `timeout` of the step in /etc/k8r/tasks if the device is that slow")
        if now - self._asked >= 1.0:  # asking costs a file system look-up
            self._asked = now
            if not self.undoing and self._engine.cancel_possible():
                raise Cancelled("cancelled on request")
        self._base.progress(done, total)


def _guard(world: World) -> _Guard:
    assert isinstance(world.report, _Guard)
    return world.report


def _sentence(error: K8rError) -> str:
    return f"{error}; {error.hint}" if error.hint else str(error)
