"""events: the log that survives reinstalls, as a table."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from k8r_agent.cli import render
from k8r_agent.cli.console import Console
from k8r_agent.errors import Exit, UsageError
from k8r_agent.model.txn import Event
from k8r_agent.model.units import format_duration

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from k8r_agent.cli.node import Node

HEAD = ("time", "slot", "task", "step", "", "took", "")
INTERVAL = 1.0  # seconds


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("-n", "--last", type=int, default=40, metavar="N", help="the last N events (0: all)")
    parser.add_argument("--txn", default="", metavar="ID", help="only those of one transaction")
    parser.add_argument("-f", "--follow", action="store_true", help="go on printing events as they happen")


def run(args: Namespace, console: Console, node: Node) -> int:
    node.require_root("events")
    if args.last < 0:
        raise UsageError("--last takes a number from 0 up")
    if args.json and args.follow:
        raise UsageError("--follow and --json exclude each other", hint="k8r-agent events --json --last 0")
    seen = node.event_number() if args.follow else 0
    events = node.events.read(txn=args.txn, last=args.last)
    console.say(*render.table([row(event) for event in events], head=HEAD))
    if console.json:
        from k8r_agent.store.events import as_dict

        console.result({"events": [as_dict(event) for event in events]})
    if args.follow:
        _follow(args.txn, seen, console, node)
    return Exit.OK


def row(event: Event) -> tuple[str, ...]:
    took = format_duration(event.duration) if event.duration else ""
    return (render.clock(event.time), event.slot, event.task, event.step, event.kind, took,
            event.message.replace("\n", " "))


def _follow(txn: str, seen: int, console: Console, node: Node) -> None:
    try:
        while True:
            for number, event in node.events.numbered(after=seen):
                seen = number
                if not txn or event.txn == txn:
                    console.say("  ".join(cell for cell in row(event) if cell))
            time.sleep(INTERVAL)
    except KeyboardInterrupt:
        return
