"""status: the node at a glance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k8r_agent.cli import render, report
from k8r_agent.cli.console import Console
from k8r_agent.cli.report import Report
from k8r_agent.errors import Exit
from k8r_agent.model.slots import Slot, SlotState
from k8r_agent.model.txn import TxnState

if TYPE_CHECKING:
    from argparse import Namespace

    from k8r_agent.cli.node import Node

_COLOURS = {SlotState.OK: "green", SlotState.PENDING: "yellow", SlotState.UNKNOWN: "dim"}


def run(args: Namespace, console: Console, node: Node) -> int:
    node.require_root("status")
    found = report.gather(node)
    console.say(*text(found, console))
    if console.json:
        console.result(as_dict(found))
    return Exit.OK


def text(found: Report, console: Console) -> list[str]:
    rows = [("node", f"{found.hostname}  {found.role}"), *(_slot(found, slot, console) for slot in found.slots),
            ("boot", _boot(found)), ("state", _state(found)), ("last", _last(found, console))]
    if found.cluster:
        rows.insert(1, ("cluster", found.cluster))
    if found.queued:
        rows.append(("queue", ", ".join(f"{r.task} {r.id}" for r in found.queued)))
    lines = render.pairs(rows)
    for what, hint in found.problems:
        lines.append(console.paint("!", "yellow") + f" {what}" + (f" ({hint})" if hint else ""))
    return [*lines, console.paint(f"→ {report.advice(found)}", "bold")]


def _slot(found: Report, slot: Slot, console: Console) -> tuple[str, str]:
    status = found.slots[slot]
    words = [str(status.state)]
    if found.current is slot:
        words.append("booted")
    if found.boot and found.boot.primary is slot:
        words.append("primary")
    marks = f"{', '.join(words):<20}".replace(words[0], console.paint(words[0], _COLOURS[status.state]), 1)
    when = render.ago(status.time, found.now)
    return str(slot), f"{render.release(status.release, status.version):<26}  {marks}" + (
        f"  written {when}" if when else "")


def _boot(found: Report) -> str:
    boot = found.boot
    if boot is None:
        return "unknown" if found.facts else ""
    text = f"{boot.backend}; boots {boot.primary}"
    if boot.tries_left is not None:
        text += f" ({render.count(boot.tries_left, 'try', 'tries')} left)"
    return text + (f"; armed: {boot.armed}, once" if boot.armed else "; nothing armed")


def _state(found: Report) -> str:
    if found.facts is None:
        return ""
    floor = f"; accepts release {found.floor} or newer" if found.floor else ""
    return ("on the state partition" if found.persistent else "in RAM only") + floor


def _last(found: Report, console: Console) -> str:
    last = found.last
    if last is None:
        return "no transaction yet"
    text = f"{last.task} {last.state}"
    if last.state is TxnState.RUNNING:
        where = f" at {found.position}" if found.position else ""
        return f"{text}{where}, started {render.ago(last.started, found.now)}"
    if last.state is TxnState.FAILED:
        text = f"{last.task} {console.paint('failed', 'red')}"
    text += f" {render.ago(last.ended, found.now)}"
    return text + (f": {last.note}" if last.note and last.state is not TxnState.DONE else "")


def as_dict(found: Report) -> dict[str, object]:
    from dataclasses import asdict

    from k8r_agent.store.journal import record_of

    boot, facts, last = found.boot, found.facts, found.last
    return {
        "node": {"hostname": found.hostname, "role": found.role},
        "current": str(found.current) if found.current else None,
        "slots": {str(slot): {**asdict(status), "state": str(status.state)} for slot, status in found.slots.items()},
        "boot": None if boot is None else {
            "backend": boot.backend, "primary": str(boot.primary), "armed": str(boot.armed) if boot.armed else None,
            "tries_left": boot.tries_left},
        "facts": None if facts is None else {**asdict(facts), "slot": str(facts.slot)},
        "state": {"persistent": found.persistent, "release_floor": found.floor},
        "transaction": None if last is None else {**record_of(last), "position": found.position},
        "queue": [{"id": r.id, "task": r.task, "args": dict(r.args)} for r in found.queued],
        "source": found.source, "cluster": found.cluster,
        "problems": [{"message": what, "hint": hint} for what, hint in found.problems],
        "advice": report.advice(found),
    }
