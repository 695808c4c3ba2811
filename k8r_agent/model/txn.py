"""One run of a task, as the journal keeps it."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from k8r_agent.model.task import Task


class TxnState(str, enum.Enum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, kw_only=True)
class Request:
    """What somebody asked for: data, never code. `args` are strings, checked against the task's own list."""

    id: str
    task: str
    args: Mapping[str, str] = field(default_factory=dict)
    requested_by: str = ""
    time: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Transaction:
    """`tries` counts attempts per step, each written before its effect. `facts` are what steps must remember
    across reboots (the chosen release, the source): small strings, written before they are relied on. `definition` is
    the task as it was at the beginning, for the day on which its file is gone; None when an older agent began."""

    id: str
    task: str
    steps: tuple[str, ...]
    args: Mapping[str, str] = field(default_factory=dict)
    tries: Mapping[str, int] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    state: TxnState = TxnState.RUNNING
    note: str = ""
    cancel: bool = False
    agent: str = ""
    started: float = 0.0
    ended: float = 0.0
    definition: Task | None = None


@dataclass(frozen=True, kw_only=True)
class Event:
    """One line of the event log. `kind`: started, succeeded, failed, note. `duration` in seconds, 0 when n/a."""

    time: float
    txn: str
    task: str
    step: str
    kind: str
    message: str = ""
    duration: float = 0.0
    slot: str = ""
    boot_id: str = ""
