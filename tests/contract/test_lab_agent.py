"""How a transaction on a virtual node is followed: by its own events, whatever comes after it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.lab.agent import Agent, is_end
from tests.lab.demo import Teller, Watcher
from tests.lab.node import CommandError


def event(txn: str, task: str, step: str, kind: str) -> dict[str, Any]:
    return {"txn": txn, "task": task, "step": step, "kind": kind, "message": "", "duration": 0.0, "slot": "working"}


OLD = [event("t1", "reinstall", "", "started"), event("t1", "reinstall", "write-working", "started"),
       event("t1", "reinstall", "write-working", "succeeded"), event("t1", "reinstall", "", "succeeded")]
BEGIN = event("t2", "reinstall", "", "started")
STEP = event("t2", "reinstall", "write-working", "started")
DONE, FAILED = event("t2", "reinstall", "", "succeeded"), event("t2", "reinstall", "", "failed")
JOIN = event("t3", "join", "", "started")


class LoggedNode:
    """Stands in for a Node: its log is one of `logs` at each question, the last one for ever. None: it is down."""

    name = "stand-in"

    def __init__(self, *logs: list[dict[str, Any]] | None) -> None:
        self._logs, self.asked = list(logs), 0

    def ssh(self, command: str, *, timeout: float) -> str:
        log = self._logs[min(self.asked, len(self._logs) - 1)]
        self.asked += 1
        if log is None:
            raise CommandError("down")
        _, _, txn = command.partition("--txn ")
        return json.dumps({"format_version": 1, "events": [e for e in log if txn in ("", e["txn"])]})

    def wait_until(self, test: Callable[[Any], bool], what: str, **_: float) -> None:
        for _try in range(10):
            try:
                if test(self):
                    return
            except CommandError:
                continue
        raise TimeoutError(what)


def agent_of(*logs: list[dict[str, Any]] | None, tell: Callable[[str], None] = lambda text: None) -> Agent:
    return Agent(LoggedNode(*logs), tell=tell)  # type: ignore[arg-type]


def test_the_end_of_a_transaction_is_its_own() -> None:
    told: list[str] = []
    agent = agent_of(OLD, None, [*OLD, BEGIN, STEP], [*OLD, BEGIN, STEP, DONE, JOIN], tell=told.append)
    assert agent.wait_end("t2", timeout=1) == [BEGIN, STEP, DONE]
    assert len(told) == 3, "each event is told once"


def test_a_failed_transaction_is_told_although_another_one_runs() -> None:
    with pytest.raises(AssertionError, match="reinstall failed"):
        agent_of([*OLD, BEGIN, FAILED, JOIN]).wait_end("t2", timeout=1)


def test_a_step_of_an_earlier_transaction_is_not_waited_for() -> None:
    agent = agent_of(OLD, [*OLD, BEGIN], [*OLD, BEGIN, STEP])
    agent.wait_begun("write-working", "t2", timeout=1, every=0, rest=0)
    assert agent.node.asked == 3  # type: ignore[attr-defined]


def test_a_step_that_does_not_come_any_more_is_not_waited_for() -> None:
    with pytest.raises(AssertionError, match="ended before rejoin"):
        agent_of([BEGIN, STEP, FAILED]).wait_begun("rejoin", "t2", timeout=1, every=0, rest=0)


def test_what_the_runner_notes_of_no_transaction_ends_none() -> None:
    assert is_end(DONE) and is_end(FAILED)
    assert not is_end(event("", "join", "", "failed")) and not is_end(STEP) and not is_end(BEGIN)


def test_the_demo_sees_a_first_boot_that_a_join_follows_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", said := io.StringIO())
    first = [event("a", "first-boot", "confirm", "succeeded"), event("a", "first-boot", "", "succeeded")]
    join = [event("b", "join", "", "started"), event("b", "join", "enter-cluster", "succeeded")]
    node = LoggedNode([*first, *join], [*first, *join, event("b", "join", "", "succeeded")])
    watcher = Watcher(Teller(), node)  # type: ignore[arg-type]
    watcher.follow("first-boot", timeout=1)
    assert "confirm" in said.getvalue() and "enter-cluster" not in said.getvalue(), "the join has its own chapter"
    watcher.follow("join", timeout=1)
    assert "enter-cluster" in said.getvalue()


def test_the_demo_breaks_off_where_a_task_failed() -> None:
    with pytest.raises(RuntimeError, match="join failed"):
        Watcher(Teller(), LoggedNode([event("b", "join", "", "failed")])).follow(  # type: ignore[arg-type]
            "join", timeout=1)
