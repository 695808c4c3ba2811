"""The crash matrix: the product's engine, tasks, steps, store and boot backends, killed and cut at every point.

K8R_CRASH_DEPTH sets the number of crashes (default: 1 here, 2 in the slow tests), K8R_CRASH_SAMPLE how many states of
the last crash are run for each run before it (0: all).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest

from tests.crash.explorer import Explorer, Judge
from tests.crash.scenarios import (
    DeadImage,
    DeadWorking,
    Flaky,
    MakeLoader,
    Unhealthy,
    UnhealthyImage,
    asked,
    cancelled,
    dead,
    fresh,
    judge,
    judge_offer,
    reinstalled,
    settled,
    stale,
    updated,
)
from tests.fakes.loaders import LOADERS
from tests.fakes.world import FakeNode

Scenario = tuple[Callable[[MakeLoader], FakeNode], Judge]
STAYS, OLD = {0: "stays in image"}, {1: "old system runs"}

SCENARIOS: dict[str, Scenario] = {
    "first-boot": (fresh, judge(task="first-boot", done=1, patience=2)),
    "first-boot, flaky": (
        lambda at: fresh(at, Flaky()), judge(task="first-boot", done=1, failed=STAYS)),
    "update": (
        lambda at: asked(settled(at), "update", source="release-2"),
        judge(task="update", done=1, done_image=2, patience=2)),
    "reinstall": (
        lambda at: asked(updated(at), "reinstall"), judge(task="reinstall", done=2, patience=2)),
    "reinstall, the new system is dead": (
        lambda at: asked(updated(at, DeadWorking()), "reinstall"),
        judge(task="reinstall", done=2, failed=STAYS, always=True)),
    "reinstall, the new image is dead": (
        lambda at: asked(updated(at, DeadImage()), "reinstall"),
        judge(task="reinstall", done=2, failed=OLD, always=True)),
    "reinstall, the new system is not well": (
        lambda at: asked(updated(at, Unhealthy()), "reinstall"),
        judge(task="reinstall", done=2, failed=STAYS, always=True)),
    "reinstall, the new image is not well": (
        lambda at: asked(updated(at, UnhealthyImage()), "reinstall"),
        judge(task="reinstall", done=2, failed=OLD, always=True)),
    "reinstall, flaky": (
        lambda at: asked(updated(at, Flaky()), "reinstall"),
        judge(task="reinstall", done=2, failed={**STAYS, **OLD})),
    "rollback": (
        lambda at: asked(reinstalled(at), "rollback", source="release-1"),
        judge(task="rollback", done=1, patience=2)),
    "update, cancelled": (
        lambda at: asked(cancelled(settled(at), "install-image-assets"), "update", source="release-2"),
        judge(task="update", done=0, failed=OLD, always=True)),
    "reinstall, cancelled in time": (
        lambda at: asked(cancelled(updated(at), "self-check"), "reinstall"),
        judge(task="reinstall", done=0, failed=OLD, always=True)),
    "reinstall, cancelled too late": (
        lambda at: asked(cancelled(updated(at), "write-working"), "reinstall"),
        judge(task="reinstall", done=2, patience=2)),
    "the working slot dies": (lambda at: dead(at, when="offer"), judge_offer),
    "the working slot dies and is rewritten": (
        lambda at: dead(at, when="reinstall"), judge(task="reinstall", done=1, patience=2)),
    "a stale arming": (stale, judge(task="first-boot", done=1, patience=2)),
}
LOADER_NAMES = ("systemd-boot", "grub")
WHOLE = ("reinstall", "first-boot")  # every second crash is run, not a sample


def explore(name: str, loader: str, *, depth: int, sample: int) -> None:
    make, verdict = SCENARIOS[name]
    started = time.process_time()
    figures = Explorer(verdict, int(os.environ.get("K8R_CRASH_DEPTH", depth)),
                       sample=int(os.environ.get("K8R_CRASH_SAMPLE", sample))).explore(make(LOADERS[loader]))
    print(f"\n{name} ({loader}): {figures}; {time.process_time() - started:.1f} s")


@pytest.mark.parametrize("loader", LOADER_NAMES)
@pytest.mark.parametrize("name", SCENARIOS)
def test_one_crash(name: str, loader: str) -> None:
    """A sample of all single crashes, for a developer's loop."""
    explore(name, loader, depth=1, sample=25)


@pytest.mark.slow
@pytest.mark.parametrize("loader", LOADER_NAMES)
@pytest.mark.parametrize("name", SCENARIOS)
def test_two_crashes(name: str, loader: str) -> None:
    """Every single crash, and after each of them another one."""
    explore(name, loader, depth=2, sample=0 if name in WHOLE else 2)


@pytest.mark.slow
@pytest.mark.parametrize("loader", LOADER_NAMES)
@pytest.mark.parametrize("name", ["reinstall", "first-boot", "rollback"])
def test_three_crashes(name: str, loader: str) -> None:
    """At random."""
    explore(name, loader, depth=3, sample=1)
