"""A task: a named sequence of steps, read from tasks/*.toml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class StepRule:
    """How the engine treats one step. `timeout` in seconds; `holds_until` names the last step before which
    the step must still be done ("" for a milestone)."""

    timeout: float = 600.0
    max_tries: int = 3
    holds_until: str = ""


@dataclass(frozen=True, kw_only=True)
class Task:
    name: str
    summary: str
    steps: tuple[str, ...]
    args: tuple[str, ...] = ()  # names of the arguments that a request may carry
    on_failure: tuple[str, ...] = ()
    point_of_no_return: str = ""
    rules: Mapping[str, StepRule] = field(default_factory=dict)

    def rule(self, step: str) -> StepRule:
        return self.rules.get(step, StepRule())
