"""A node at whose prompt every task is two toy steps, run by the real runner and engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from k8r_agent.model.slots import Slot, SlotState, SlotStatus
from tests.fakes.prompt import Prompt
from tests.fakes.simple import ToyStep

TASK = 'format = 1\nsummary = "A toy"\nargs = ["source"]\nsteps = ["first", "second"]\npoint_of_no_return = "second"\n'


def toy_steps() -> dict[str, Any]:
    shared: set[str] = set()
    return {name: ToyStep(name, shared) for name in ("first", "second")}


def toy_prompt(tmp_path: Path, steps: dict[str, Any]) -> Prompt:
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    for name in ("update", "reinstall", "rollback", "first-boot"):
        (tasks / f"{name}.toml").write_text(TASK)
    (tmp_path / "bundle").mkdir()
    found = Prompt(tmp_path, steps=steps, tasks=tasks)
    for slot in Slot:
        found.world.slots.set_status(slot, SlotStatus(state=SlotState.OK, release=1, digest="aa"))
    return found


def update(prompt: Prompt, *more: str) -> int:
    return prompt.run("update", str(prompt.tmp / "bundle"), *more)
