"""--dry-run: the steps that the engine would run, and what each would do now. Observes, changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from k8r_agent.cli import render
from k8r_agent.cli.console import Console
from k8r_agent.errors import Exit, K8rError
from k8r_agent.model.units import format_duration, format_size

if TYPE_CHECKING:
    from k8r_agent.cli.node import Node
    from k8r_agent.cluster.proof import Line


@dataclass(frozen=True, kw_only=True)
class PlannedStep:
    """`bytes` is what the step may write at most; `timeout` in seconds."""

    name: str
    summary: str
    now: str
    bytes: int
    timeout: float
    tries: int


def show(task: str, args: Mapping[str, str], console: Console, node: Node, *, proof: tuple[Line, ...] = ()) -> int:
    planned = steps(task, args, node)
    rows = [(str(i), step.name, step.summary, step.now, format_size(step.bytes) if step.bytes else "",
             f"{step.tries} × {format_duration(step.timeout)}") for i, step in enumerate(planned, 1)]
    console.say(f"{task}: {node.tasks.load(task).summary}. Nothing is changed now.", "",
                *render.table(rows, head=("", "step", "what it does", "now", "writes", "at most")))
    console.result({"plan": {"task": task, "args": dict(args), "steps": [asdict(step) for step in planned]},
                    **({"proof": [asdict(line) for line in proof]} if proof else {})})
    return Exit.OK


def steps(task: str, args: Mapping[str, str], node: Node) -> list[PlannedStep]:
    """Raises TaskFileError for a task that does not exist or is wrong."""
    definition = node.tasks.load(task)
    try:
        sizes = node.bytes_of(args)
    except K8rError:  # the step that opens the bundle says what is wrong with it
        sizes = {}
    world = node.rehearsal(task, args)
    planned = []
    for name in definition.steps:
        step, rule = node.steps[name], definition.rule(name)
        try:
            now = "done already" if step.done(world) else "to do"
        except (K8rError, AssertionError) as error:
            now = f"not known yet ({error})" if str(error) else "not known yet"
        planned.append(PlannedStep(name=name, summary=step.summary, now=now, timeout=rule.timeout,
                                   tries=rule.max_tries, bytes=sizes.get(name, 0) if now == "to do" else 0))
    return planned
