"""What all verbs that run a task do: plan or submit, then follow."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from k8r_agent.cli import plan
from k8r_agent.cli.console import PROGRAM, Console
from k8r_agent.errors import Busy, Exit
from k8r_agent.model.txn import Transaction, TxnState

if TYPE_CHECKING:
    from argparse import Namespace

    from k8r_agent.cli.node import Node

LENT = 10.0  # seconds in which a runner that only waits to reboot lends its lock

def submit(task: str, request_args: Mapping[str, str], args: Namespace, console: Console, node: Node) -> int:
    """`args` are those of parser.add_run_options(). Raises Busy when a transaction is running or queued."""
    if args.dry_run:
        return plan.show(task, request_args, console, node)
    node.settings()  # a mistake in the configuration or the task is told here, not by a failed transaction
    node.tasks.load(task)
    refuse_when_busy(node)
    if args.foreground:
        from k8r_agent.cli.foreground import run_here

        return run_here(task, request_args, args, console, node)
    request = node.submit(task, request_args, requested_by())
    if args.no_wait:
        console.say(f"{task} is queued as {request}", f"follow it with: {PROGRAM} task watch")
        console.result({"request": request, "task": task})
        return Exit.OK
    return follow(request, args, console, node)


def follow(request: str, args: Namespace, console: Console, node: Node) -> int:
    from k8r_agent.cli.follow import Follower, outcome

    ended = Follower(console, node).follow(request)
    return outcome(ended, console, exit_77=args.exit_77)


def refuse_when_busy(node: Node) -> Transaction | None:
    """The last transaction. Raises Busy while one is running, or is waiting to be."""
    last = node.transaction()
    if last and last.state is TxnState.RUNNING:
        raise Busy(f"{last.task} is running", why=f"transaction {last.id}",
                   hint=f"{PROGRAM} task watch, or {PROGRAM} task cancel")
    queued = node.queue.pending()
    if queued:
        raise Busy(f"{queued[0].task} is queued already", why=f"request {queued[0].id}",
                   hint=f"{PROGRAM} task watch, or {PROGRAM} task cancel")
    return last


def requested_by() -> str:
    """For the log: who was at the prompt. Not a proof of anything."""
    user = os.environ.get("SUDO_USER") or os.environ.get("USER") or f"uid {os.getuid()}"
    client = os.environ.get("SSH_CONNECTION", "").split(" ")[0]
    return f"{user} from {client}" if client else user
