"""k8r-agent on a virtual node, asked and commanded over SSH as an operator would."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from tests.lab.node import CommandError, Node


class Agent:
    def __init__(self, node: Node) -> None:
        self.node = node

    def status(self) -> dict[str, Any]:
        """Raises CommandError while the node is down."""
        return self.json("k8r-agent status --json")

    def json(self, command: str) -> dict[str, Any]:
        text = self.node.ssh(command, timeout=60)
        try:
            found: dict[str, Any] = json.loads(text)
        except json.JSONDecodeError:
            raise CommandError(f"{command}: not JSON: {text[-500:]}") from None
        assert "format_version" in found, found
        return found

    def events(self) -> list[dict[str, Any]]:
        return list(self.json("k8r-agent events --json --last 0")["events"])

    def run(self, command: str, *, timeout: float = 600.0) -> str:
        """A verb that is followed to its end."""
        return self.node.ssh(f"k8r-agent {command}", timeout=timeout)

    def run_and_lose(self, command: str, *, step: str, timeout: float) -> None:
        """A verb whose SSH session is killed on both ends once that step was started."""
        client = subprocess.Popen(self.node.ssh_argv(f"k8r-agent {command}", options=("-tt",)),
                                  stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            self.wait_step(step, task=command.split()[0], timeout=timeout)
        finally:
            client.kill()
            client.wait()

    def transaction(self) -> dict[str, Any]:
        return dict(self.status()["transaction"] or {})

    def wait_idle(self, task: str, *, current: str = "working", timeout: float, state: str = "done") -> dict[str, Any]:
        """Until the last transaction is of that task and has ended in `state`, on the slot named; the status."""
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
