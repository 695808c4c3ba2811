"""k8r-agent on a virtual node, asked and commanded over SSH as an operator would."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

from tests.lab.node import CommandError, Node

Event = dict[str, Any]


class Agent:
    """`tell` hears of each event of a transaction that is waited for."""

    def __init__(self, node: Node, *, tell: Callable[[str], None] = lambda text: None) -> None:
        self.node, self._tell, self._told = node, tell, dict[str, int]()

    def status(self) -> dict[str, Any]:
        """Raises CommandError while the node is down."""
        return self.json("k8r-agent status --json")

    def json(self, command: str, *, timeout: float = 120.0) -> dict[str, Any]:
        text = self.node.ssh(command, timeout=timeout)
        try:
            found: dict[str, Any] = json.loads(text)
        except json.JSONDecodeError:
            raise CommandError(f"{command}: not JSON: {text[-500:]}") from None
        assert "format_version" in found, found
        return found

    def events(self, txn: str = "") -> list[Event]:
        """All, or those of one transaction."""
        of = f" --txn {txn}" if txn else ""
        return list(self.json(f"k8r-agent events --json --last 0{of}", timeout=60)["events"])

    def run(self, command: str, *, timeout: float = 600.0) -> str:
        """A verb that is followed to its end."""
        return self.node.ssh(f"k8r-agent {command}", timeout=timeout)

    def submit(self, command: str) -> str:
        """A verb that is not followed, which would cost the node its processor; the id of its transaction."""
        return str(self.json(f"k8r-agent {command} --no-wait --json", timeout=600)["request"])

    def run_and_lose(self, command: str, *, step: str, timeout: float) -> None:
        """A verb whose SSH session is killed on both ends once that step was started."""
        client = subprocess.Popen(self.node.ssh_argv(f"k8r-agent {command}", options=("-tt",)),
                                  stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            self.wait_step(step, task=command.split()[0], timeout=timeout)
        finally:
            client.kill()
            client.wait()

    def wait_idle(self, task: str, *, current: str = "working", timeout: float, state: str = "done") -> dict[str, Any]:
        """Until the last transaction is of that task and has ended in `state`, on the slot named; the status. Not for
        a task that another one follows at once: see wait_end()."""
        last: dict[str, Any] = {}

        def settled(_: Node) -> bool:
            nonlocal last
            last = self.status()
            txn = last["transaction"] or {}
            if txn.get("task") == task and txn.get("state") not in ("running", state):
                raise AssertionError(f"{self.node.name}: {task} {txn.get('state')}: {txn.get('note')}\n"
                                     + self.node.try_ssh("k8r-agent events").out)
            return txn.get("task") == task and txn.get("state") == state and last["current"] == current

        self.node.wait_until(settled, f"{task} {state} in {current}", timeout=timeout)
        return last

    def wait_step(self, step: str, *, task: str, kind: str = "started", timeout: float) -> None:
        """Until an event of that step is in the log."""
        def seen(_: Node) -> bool:
            return any((e["task"], e["step"], e["kind"]) == (task, step, kind) for e in self.events())

        self.node.wait_until(seen, f"{step} {kind}", timeout=timeout, every=1.0, rest=0.0)

    # one transaction, by its id

    def wait_begun(self, step: str, txn: str, *, timeout: float, every: float, rest: float) -> None:
        """Until that transaction has begun that step. Raises AssertionError when it ended without. `every` and `rest`
        as in rest_after()."""
        def begun(_: Node) -> bool:
            events = self._followed(txn)
            if any((e["step"], e["kind"]) == (step, "started") for e in events):
                return True
            end = next(filter(is_end, events), None)
            assert end is None, f"{self.node.name}: {txn} ended before {step}: {end['message']}"
            return False

        self.node.wait_until(begun, f"{step} begun", timeout=timeout, every=every, rest=rest)

    def wait_end(self, txn: str, *, timeout: float) -> list[Event]:
        """Until that transaction has ended, whatever came after it; its events. Raises AssertionError when it
        failed. Seldom asked: it may last half an hour."""
        events: list[Event] = []

        def ended(_: Node) -> bool:
            nonlocal events
            events = self._followed(txn)
            return any(map(is_end, events))

        self.node.wait_until(ended, f"{txn} ended", timeout=timeout, every=10.0, rest=4.0)
        end = next(filter(is_end, events))
        assert end["kind"] == "succeeded", f"{self.node.name}: {end['task']} failed: {end['message']}"
        return events

    def _followed(self, txn: str) -> list[Event]:
        events = self.events(txn)
        for event in events[self._told.get(txn, 0):]:
            took = f" after {event['duration']:.0f} s" if event["duration"] else ""
            what = f"{event['step'] or event['task']} {event['kind']}{took}  {event['message']}"
            self._tell(f"{self.node.name}:   {what}".rstrip())
        self._told[txn] = len(events)
        return events


def is_end(event: Event) -> bool:
    """Of its transaction; what the runner notes of none has no `txn`."""
    return bool(event["txn"]) and not event["step"] and event["kind"] in ("succeeded", "failed")
