"""task list, show, watch, cancel, retry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k8r_agent.cli import render
from k8r_agent.cli.console import PROGRAM, Console
from k8r_agent.cli.follow import Follower, event_text, outcome
from k8r_agent.cli.submit import refuse_when_busy
from k8r_agent.cli.submit import submit as submit_task
from k8r_agent.errors import Exit, NothingToDo, TaskFileError, UsageError
from k8r_agent.model.txn import Transaction, TxnState
from k8r_agent.model.units import format_duration

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from k8r_agent.cli.node import Node


def run_list(args: Namespace, console: Console, node: Node) -> int:
    node.require_root("task list")
    queued, rows = node.queue.pending(), []
    tasks: list[dict[str, object]] = []
    for name in node.tasks.names():
        try:
            task = node.tasks.load(name)
            rows.append((name, task.summary, render.count(len(task.steps), "step")))
            tasks.append({"name": name, "summary": task.summary, "steps": list(task.steps), "args": list(task.args)})
        except TaskFileError as error:
            rows.append((name, f"cannot be used: {error}", ""))
            tasks.append({"name": name, "error": error.as_dict()})
    console.say(*render.table(rows))
    console.say("", *(render.table([("queued:", r.task, r.id, r.requested_by) for r in queued])
                      or ["the queue is empty"]))
    console.result({"tasks": tasks, "queue": [{"id": r.id, "task": r.task, "args": dict(r.args)} for r in queued]})
    return Exit.OK


def arguments_show(parser: ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="TASK",
                        help="a task's steps; without it, the current or last transaction")


def run_show(args: Namespace, console: Console, node: Node) -> int:
    node.require_root("task show")
    return _show_task(args.name, console, node) if args.name else _show_transaction(console, node)


def _show_task(name: str, console: Console, node: Node) -> int:
    task = node.tasks.load(name)
    rows, steps = [], []
    for step in task.steps:
        rule, summary = task.rule(step), node.steps[step].summary
        rows.append((step, summary, f"{rule.max_tries} × {format_duration(rule.timeout)}",
                     f"holds until {rule.holds_until}" if rule.holds_until else "",
                     "point of no return" if step == task.point_of_no_return else ""))
        steps.append({"name": step, "summary": summary, "timeout": rule.timeout, "max_tries": rule.max_tries,
                      "holds_until": rule.holds_until})
    console.say(f"{name}: {task.summary}", "", *render.table(rows, head=("step", "what it does", "at most")))
    if task.on_failure:
        console.say("", f"on failure: {', '.join(task.on_failure)}")
    console.result({"task": {"name": name, "summary": task.summary, "args": list(task.args), "steps": steps,
                             "on_failure": list(task.on_failure), "point_of_no_return": task.point_of_no_return}})
    return Exit.OK


def _show_transaction(console: Console, node: Node) -> int:
    from k8r_agent.store.events import as_dict
    from k8r_agent.store.journal import record_of

    txn = node.transaction()
    if txn is None:
        raise NothingToDo("there was no transaction yet")
    events = node.events.read(txn=txn.id)
    console.say(f"{txn.task} {txn.id}: {txn.state}" + (f": {txn.note}" if txn.note else ""))
    if txn.facts.get("hint"):
        console.say(f"hint: {txn.facts['hint']}")
    console.say("", *(event_text(event) for event in events))
    console.result({"transaction": record_of(txn), "events": [as_dict(event) for event in events]})
    return Exit.OK


def arguments_watch(parser: ArgumentParser) -> None:
    parser.add_argument("--exit-77", action="store_true", help="exit 77 instead of 0 when there is nothing to do")


def run_watch(args: Namespace, console: Console, node: Node) -> int:
    node.require_root("task watch")
    last, queued = node.transaction(), node.queue.pending()
    if last and last.state is TxnState.RUNNING:
        request, name = last.id, last.task
    elif queued:
        request, name = queued[0].id, queued[0].task
    else:
        console.say("nothing is running" + (f"; the last was: {_sentence(last)}" if last else ""))
        console.result({"transaction": None})
        return Exit.NOTHING_TO_DO if args.exit_77 else Exit.OK
    console.note(f"following {name} {request}; Ctrl-C leaves it running")
    return outcome(Follower(console, node).follow(request), console, exit_77=args.exit_77)


def run_cancel(args: Namespace, console: Console, node: Node) -> int:
    """Takes a queued request back, or asks the engine to end the running transaction."""
    from k8r_agent.runner import cancel

    node.require_root("task cancel")
    last, queued = node.transaction(), node.queue.pending()
    if (last is None or last.state is not TxnState.RUNNING) and queued:
        node.queue.remove(queued[0].id)
        console.say(f"{queued[0].task} {queued[0].id} was taken from the queue")
        console.result({"cancelled": queued[0].id, "running": False})
        return Exit.OK
    txn = cancel(node.world, node.tasks)
    console.say(f"{txn.task} {txn.id} will end at the next safe point: {PROGRAM} task watch")
    console.result({"cancelled": txn.id, "running": True})
    return Exit.OK


def arguments_retry(parser: ArgumentParser) -> None:
    from k8r_agent.cli.parser import add_run_options, add_yes

    add_yes(parser)
    add_run_options(parser)


def run_retry(args: Namespace, console: Console, node: Node) -> int:
    """The same task with the same arguments. What takes something away is asked for again."""
    node.require_root("task retry")
    last = node.transaction() if args.dry_run else refuse_when_busy(node)
    if last is None or last.state in (TxnState.RUNNING, TxnState.DONE):
        raise UsageError("there is nothing to try again",
                         why=f"the last transaction is {last.state}" if last else "there was none yet")
    if last.task in ("reinstall", "rollback", "rescue") and not args.dry_run:
        from k8r_agent.cli.reinstall import consent

        consent(args, console, _announcement(last, node), f"Run {last.task} again?")
    return submit_task(last.task, last.args, args, console, node)


def _announcement(last: Transaction, node: Node) -> list[str]:
    from k8r_agent.cli import reinstall, rescue, rollback
    from k8r_agent.model.slots import Slot

    if last.task == "rescue":
        return rescue.announcement(node, last.args.get("source", "the bundle"), last.args.get("release", ""))
    if last.task == "rollback":
        return rollback.announcement(node, last.args.get("release", "?"), last.args.get("source", "the bundle"))
    return reinstall.announcement(reinstall.measure(node), node.slots.status(Slot.WORKING),
                                  node.slots.status(Slot.IMAGE))


def _sentence(txn: Transaction) -> str:
    return f"{txn.task} {txn.state}" + (f": {txn.note}" if txn.note else "")


