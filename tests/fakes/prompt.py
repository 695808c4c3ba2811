"""A person, or a script, at the prompt of a node: streams in memory, a node in memory."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from k8r_agent.cli.app import main
from k8r_agent.cli.console import Console
from k8r_agent.cli.node import Node
from k8r_agent.ports.step import World
from k8r_agent.runner import Runner
from k8r_agent.store.lock import Lock
from k8r_agent.store.tasks import TaskFiles
from tests.fakes.simple import simple_world

TASKS = Path(__file__).resolve().parent.parent.parent / "tasks"


class Stream(io.StringIO):
    def __init__(self, text: str = "", *, terminal: bool = False) -> None:
        super().__init__(text)
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


class PromptNode(Node):
    """`runner` is called at every sleep of whoever follows: the runner works while others wait. None: it is not
    running."""

    runner: Callable[[], object] | None = None
    complete = False
    slept = 0.0
    starting = 0.0  # units do, for so many seconds

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.stopped: list[str] = []

    def sleep(self, seconds: float) -> None:
        self.slept += seconds
        clock = getattr(self.world.machine, "clock", None)
        if clock:
            clock.sleep(seconds)
        if self.runner:
            self.runner()

    def stop_unit(self, unit: str) -> None:
        self.stopped.append(unit)

    def unit_active(self, unit: str) -> bool:
        return self.complete

    def unit_starting(self, unit: str) -> bool:
        return self.slept < self.starting


class Prompt:
    """`tmp` holds the configuration and the lock. `run("status")` returns the exit code; `out`, `err` what was
    written."""

    def __init__(self, tmp: Path, *, world: World | None = None, steps: dict[str, Any] | None = None,
                 tasks: Path = TASKS, uid: int = 0) -> None:
        self.world = world or simple_world()
        self.tmp, self.lock = tmp, Lock(tmp / "run/k8r/lock")
        self.steps = steps
        self.node = PromptNode(root=tmp, world=self.world, lock=self.lock, uid=uid)
        self.tasks = TaskFiles(self.node.steps if steps is None else steps, [tasks])
        self.node._tasks = self.tasks
        if steps is not None:
            self.node.__dict__["steps"] = steps
        self.node.runner = self.work
        self.out = self.err = ""
        self.environ: dict[str, str] = {}

    def work(self) -> object:
        """What k8r-runner.service does."""
        return Runner(self.world, tasks=self.tasks, steps=self.node.steps, lock=self.lock).run()

    def run(self, *argv: str, answer: str | None = None) -> int:
        """`answer`: there is a terminal, and this is typed at it."""
        terminal = answer is not None
        out, err = Stream(terminal=terminal), Stream(terminal=terminal)
        console = Console(out=out, err=err, stdin=Stream(answer or "", terminal=terminal), environ=self.environ)
        code = main(list(argv), console=console, node=self.node)
        self.out, self.err = out.getvalue(), err.getvalue()
        return code

    def json(self, *argv: str) -> Any:
        self.run(*argv, "--json")
        found = json.loads(self.out)
        assert found["format_version"] == 1
        return found

    def configure(self, text: str) -> None:
        file = self.tmp / "etc/k8r/agent.toml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
