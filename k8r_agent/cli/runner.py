"""runner: what k8r-runner.service runs. Goes on with what was interrupted, then empties the queue, then ends."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from k8r_agent.cli.console import Console
from k8r_agent.cli.foreground import stoppable
from k8r_agent.effects.notify import Heartbeat, Notifier, ServiceReporter
from k8r_agent.errors import Exit

if TYPE_CHECKING:
    from argparse import Namespace

    from k8r_agent.cli.node import Node

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "notice": logging.INFO, "warning": logging.WARNING,
          "err": logging.ERROR, "error": logging.ERROR, "crit": logging.CRITICAL}


def run(args: Namespace, console: Console, node: Node) -> int:
    """A transaction that failed is told by its events, not by the exit code: systemd must not restart for it."""
    from k8r_agent.runner import Runner

    node.require_root("runner")
    log_to_journal(console)
    console.note(*(f"configuration: {problem}" for problem in node.lenient()[1]))  # and goes on with what is valid
    notifier = Notifier()
    world = node.world
    world.report = ServiceReporter(notifier)
    with stoppable() as stop, Heartbeat(notifier) as heartbeat:
        notifier.ready()
        outcome = Runner(world, tasks=node.tasks, steps=node.steps, lock=node.lock, sleep=time.sleep,
                         stop=lambda: bool(stop), allow=heartbeat.allow).run()
        notifier.stopping()
    console.result({"outcome": outcome.value if outcome else None})
    return Exit.OK


def log_to_journal(console: Console) -> None:
    """stderr, which systemd reads; the level is that of SYSTEMD_LOG_LEVEL."""
    level = LEVELS.get(console.environ.get("SYSTEMD_LOG_LEVEL", "info").lower(), logging.INFO)
    logging.basicConfig(stream=console.err, level=level, format="%(message)s")
