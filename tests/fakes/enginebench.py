"""A task of toy steps a, b, c…, driven by the real engine, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from k8r_agent.engine import Engine, Outcome
from k8r_agent.model.task import StepRule, Task
from k8r_agent.model.txn import Event, Transaction
from k8r_agent.ports.step import World
from k8r_agent.store.events import EventLog
from k8r_agent.store.journal import Journal
from tests.fakes.simple import Clock, SimpleMachine, ToyStep, simple_world

Effect = Callable[[World], None]


@dataclass
class Bench:
    """A task of toy steps a, b, c…, and what came of it."""

    effects: dict[str, Effect | None]
    rules: dict[str, StepRule] = field(default_factory=dict)
    point: str = ""
    undo: tuple[str, ...] = ()
    world: World = field(default_factory=simple_world)
    shared: set[str] = field(default_factory=set)
    stop: Callable[[], bool] = lambda: False
    hooks: Any = None

    def __post_init__(self) -> None:
        self.steps = {name: ToyStep(name, self.shared, effect) for name, effect in self.effects.items()}
        names = tuple(n for n in self.effects if n not in self.undo)
        self.task = Task(name="toy", summary="", steps=names, on_failure=self.undo, rules=self.rules,
                         point_of_no_return=self.point)
        self.txn = Transaction(id="t1", task="toy", steps=names, started=self.machine.clock.time)
        Journal(self.world.files).save(self.txn)

    @property
    def machine(self) -> SimpleMachine:
        assert isinstance(self.world.machine, SimpleMachine)
        return self.world.machine

    @property
    def clock(self) -> Clock:
        return self.machine.clock

    def drive(self) -> Outcome:
        engine = Engine(world=self.world, task=self.task, steps=self.steps, hooks=self.hooks,
                        sleep=self.clock.sleep, stop=self.stop)
        return engine.drive(self.journal)

    @property
    def journal(self) -> Transaction:
        txn = Journal(self.world.files).load()
        assert txn is not None
        return txn

    def events(self, step: str = "") -> list[Event]:
        return [e for e in EventLog(self.world.files).read() if not step or e.step == step]

    def kinds(self, step: str) -> list[str]:
        return [e.kind for e in self.events(step)]


def fails(error: Exception, *, times: int = 10**6) -> Effect:
    left = [times]

    def effect(world: World) -> None:
        if left[0]:
            left[0] -= 1
            raise error
    return effect
