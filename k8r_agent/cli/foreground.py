"""--foreground: the runner's work in this process, with its progress on this terminal. Ctrl-C stops it between two
pieces of work; the transaction then goes on when the runner starts the next time."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from k8r_agent.cli.console import Console
from k8r_agent.cli.follow import Follower, outcome
from k8r_agent.cli.progress import ProgressLine
from k8r_agent.engine import Outcome
from k8r_agent.errors import Exit, K8rError
from k8r_agent.runner import Runner

if TYPE_CHECKING:
    from argparse import Namespace

    from k8r_agent.cli.node import Node


class LineReporter:
    """The Reporter of a person's terminal. `before` is called when something new begins."""

    def __init__(self, line: ProgressLine, before: Callable[[], None] = lambda: None) -> None:
        self._line, self._text, self._before = line, "", before

    def status(self, text: str) -> None:
        self._before()
        self._text = text
        if self._line.terminal:
            self._line.update(text)

    def progress(self, done: int, total: int) -> None:
        self._line.update(self._text, done, total)


def run_here(task: str, request_args: Mapping[str, str], args: Namespace, console: Console, node: Node) -> int:
    """Submits, then runs the queue until it is empty. Raises Busy when a runner works already."""
    from k8r_agent.cli.submit import requested_by

    world, follower = node.world, Follower(console, node)
    line = follower.line
    with stoppable() as stop:
        runner = Runner(world, tasks=node.tasks, steps=node.steps, lock=node.lock, sleep=time.sleep,
                        stop=lambda: bool(stop))
        request = node.submit(task, request_args, requested_by())
        world.report = LineReporter(line, lambda: follower.show_events(request))
        result = runner.run()
    line.clear()
    follower.show_events(request)
    if result is Outcome.STOPPED:
        console.note("stopped; it goes on when the runner starts again (systemctl start k8r-runner)")
        return Exit.FAILED
    ended = node.transaction()  # or RUNNING, when the node reboots
    if ended is None or ended.id != request:
        raise K8rError("the request was not run", hint="k8r-agent events")
    return outcome(ended, console, exit_77=args.exit_77)


@contextmanager
def stoppable() -> Iterator[list[int]]:
    """A list that is no longer empty once somebody asked to stop."""
    asked: list[int] = []
    before = {number: signal.signal(number, lambda number, frame: asked.append(number))
              for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
