"""runner: what k8r-runner.service runs. Goes on with what was interrupted, then empties the queue, then ends."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from k8r_agent.cli.console import Console
from k8r_agent.cli.foreground import stoppable
from k8r_agent.cli.report import REMEDY
from k8r_agent.effects.notify import Heartbeat, Notifier, ServiceReporter
from k8r_agent.errors import Busy, Exit, K8rError, StateError

if TYPE_CHECKING:
    from argparse import Namespace

    from k8r_agent.cli.node import Node
    from k8r_agent.engine import Outcome
    from k8r_agent.runner import Runner

log = logging.getLogger(__name__)
PATH_UNIT = "k8r-runner.path"
PATIENCE = 20.0  # seconds: started again every 5 s, systemd would give up while `slot verify` has the lock
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
        runner = Runner(world, tasks=node.tasks, steps=node.steps, lock=node.lock, sleep=time.sleep,
                        stop=lambda: bool(stop), allow=heartbeat.allow, patience=PATIENCE)
        outcome = run_out(runner, console, node)
        notifier.stopping()
    console.result({"outcome": outcome.value if outcome else None})
    return Exit.OK


def run_out(runner: Runner, console: Console, node: Node) -> Outcome | None:
    """Runner.run(). What a restart may help against ends with the exit code of Busy, which systemd starts again after;
    a state partition that cannot be written does not."""
    try:
        return runner.run()
    except StateError as error:
        raise _rest(error, console, node) from error
    except K8rError:
        raise
    except Exception as error:
        log.exception("runner")
        raise Busy("a mistake in k8r-agent itself", why=f"{type(error).__name__}: {error}",
                   hint="systemd starts the runner again a few times") from error


def _rest(error: StateError, console: Console, node: Node) -> StateError:
    """Requests that stay in the queue would start the runner again at once, and again."""
    try:
        if node.queue.pending():
            node.stop_unit(PATH_UNIT)
    except K8rError as other:
        console.note(f"{PATH_UNIT}: {other}")
    hint = f"{error.hint}; then: {REMEDY}" if error.hint else REMEDY
    return StateError(error.what, why=error.why, hint=hint)


def log_to_journal(console: Console) -> None:
    """stderr, which systemd reads; the level is that of SYSTEMD_LOG_LEVEL."""
    level = LEVELS.get(console.environ.get("SYSTEMD_LOG_LEVEL", "info").lower(), logging.INFO)
    logging.basicConfig(stream=console.err, level=level, format="%(message)s")
