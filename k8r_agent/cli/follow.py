"""Follow a request from the queue to the end of its transaction, by looking at what the runner leaves on disk.

The runner does not know who watches. Whoever follows may go away at any time, and come back with `task watch`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from k8r_agent.cli.console import PROGRAM, Console
from k8r_agent.cli.progress import ProgressLine
from k8r_agent.errors import Exit, K8rError, NothingToDo
from k8r_agent.model.txn import Event, Transaction, TxnState
from k8r_agent.model.units import format_duration

if TYPE_CHECKING:
    from k8r_agent.cli.node import Node

INTERVAL = 0.25  # seconds between looks
IDLE = 30.0  # seconds a request may lie in the queue before that is worth a remark


class Follower:
    """Shows events as they happen and a progress line between them."""

    def __init__(self, console: Console, node: Node) -> None:
        self._console, self._node = console, node
        self.line = ProgressLine(console.err, columns=_columns())
        self._seen = node.event_number()
        self._rebooting = False
        self._last: Transaction | None = None

    def follow(self, request: str) -> Transaction | None:
        """Until the transaction with that id has ended, or the node reboots in the middle of it (then it is still
        RUNNING); None when somebody pressed Ctrl-C. Raises K8rError when the request was refused."""
        waited = 0.0
        try:
            while not self._over(request):
                if self._last is None and IDLE < waited <= IDLE + INTERVAL:
                    self._console.note("still in the queue: is k8r-runner.service running? (systemctl status "
                                       "k8r-runner)")
                self._node.sleep(INTERVAL)
                waited += INTERVAL
            self.line.end()
            return self._last
        except KeyboardInterrupt:
            self.line.end()
            self._console.note("", "detached; the runner goes on.", f"Re-attach with: {PROGRAM} task watch")
            return None

    def _over(self, request: str) -> bool:
        txn = self._node.transaction()
        found = txn if txn is not None and txn.id == request else None
        self.show_events(request)
        if found:
            self._last = found
            if found.state is TxnState.RUNNING and not self._rebooting:
                self._progress(found)
            return found.state is not TxnState.RUNNING or self._rebooting
        if self._last:
            return True  # the state partition is gone: the system is going down
        if not self._waiting(request):
            raise self._refused(request)
        return False

    def _waiting(self, request: str) -> bool:
        """In the queue, or taken from it a moment ago."""
        if any(r.id == request for r in self._node.queue.pending()):
            return True
        self._node.sleep(INTERVAL)
        txn = self._node.transaction()
        return txn is not None and txn.id == request

    def _refused(self, request: str) -> K8rError:
        for event in reversed(self._node.events.read(last=50)):
            if event.txn == request or request in event.message:
                return K8rError("the runner did not accept the request", why=event.message)
        return K8rError("the request has left the queue without a transaction", hint=f"{PROGRAM} events")

    def show_events(self, request: str) -> None:
        for number, event in self._node.events.numbered(after=self._seen):
            self._seen = number
            if event.txn == request:
                self.line.end()
                self._rebooting = event.kind == "note" and event.message.startswith("rebooting")
                if event.step and event.kind != "started":
                    self._console.note(event_text(event))

    def _progress(self, txn: Transaction) -> None:
        now = self._node.progress()
        if now is None or not now.text:
            self.line.update(f"{txn.task} …")
        else:
            self.line.update(now.text, now.done, now.total)


def event_text(event: Event) -> str:
    mark = {"succeeded": "✓", "failed": "✗"}.get(event.kind, "·")
    took = f"  ({format_duration(event.duration)})" if event.duration else ""
    message = f": {event.message}" if event.message else ""
    return f"{mark} {event.step or event.task}{message}{took}"


def outcome(txn: Transaction | None, console: Console, *, exit_77: bool = False) -> int:
    """Say how it ended. Raises K8rError when it failed."""
    if txn is None:
        return Exit.FAILED  # detached: whoever chains commands with && must not go on
    from k8r_agent.store.journal import record_of

    if txn.state is TxnState.RUNNING:
        console.say(f"the node reboots now and goes on by itself; afterwards: {PROGRAM} status")
        console.result({"rebooting": True, "transaction": record_of(txn)})
        return Exit.OK
    if txn.state is TxnState.FAILED:
        error = K8rError(f"{txn.task} failed", why=txn.note,
                         hint=txn.facts.get("hint") or f"{PROGRAM} events --txn {txn.id}")
        error.code = txn.facts.get("error", "task-failed")
        raise error
    if txn.facts.get("outcome") == NothingToDo.code:
        console.say(txn.note)
        console.result({"nothing_to_do": txn.note, "transaction": record_of(txn)})
        return Exit.NOTHING_TO_DO if exit_77 else Exit.OK
    took = format_duration(max(0.0, txn.ended - txn.started))
    console.say(f"{txn.task} {txn.state} ({took})" + (f": {txn.note}" if txn.note else ""))
    console.result({"transaction": record_of(txn)})
    return Exit.OK if txn.state is TxnState.DONE else Exit.FAILED


def _columns() -> int:
    import shutil

    return shutil.get_terminal_size().columns
