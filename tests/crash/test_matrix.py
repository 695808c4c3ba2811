"""The crash matrix: the product's engine, tasks, steps, store and boot backends, killed and cut at every point.

K8R_CRASH_SAMPLES overrides how many states are gone into after each crash: `0,0` is every pair of crashes of every
scenario (hours), `20` one crash at 20 places.
"""

from __future__ import annotations

import os

import pytest

from tests.crash import scenarios
from tests.crash.scenarios import (
    DeadImage,
    DeadWorking,
    DeadWorking3,
    Flaky,
    Scenario,
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
    stranded,
    updated,
    worn_out,
)

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
    "rescue by the release before": (
        lambda at: asked(stranded(at), "rescue", source="release-1", release="1"),
        judge(task="rescue", done=1, patience=2)),
    "rescue by a mended release": (
        lambda at: asked(stranded(at), "rescue", source="release-3"), judge(task="rescue", done=3, patience=2)),
    "rescue of a worn out working slot": (
        lambda at: asked(worn_out(at), "rescue", source="release-3"), judge(task="rescue", done=3, patience=2)),
    "rescue by another dead release": (
        lambda at: asked(stranded(at, DeadWorking3()), "rescue", source="release-3"),
        judge(task="rescue", done=3, failed=STAYS, always=True)),
    "rescue, cancelled in time": (
        lambda at: asked(cancelled(stranded(at), "capture-identity"), "rescue", source="release-1", release="1"),
        judge(task="rescue", done=0, failed=STAYS, always=True)),
    "rescue, flaky": (
        lambda at: asked(stranded(at, then=Flaky()), "rescue", source="release-1", release="1"),
        judge(task="rescue", done=1, failed={**STAYS, **OLD})),
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
MAIN = ("first-boot", "update", "reinstall", "rollback", "rescue by the release before")
BAD = tuple(f"reinstall, the new {what}" for what in (
    "system is dead", "image is dead", "system is not well", "image is not well"))


def explore(name: str, loader: str, *samples: float) -> None:
    wanted = os.environ.get("K8R_CRASH_SAMPLES")
    scenarios.explore(name, SCENARIOS[name], loader, *(map(float, wanted.split(",")) if wanted else samples))


@pytest.mark.fault(27)
@pytest.mark.parametrize("loader", LOADER_NAMES)
@pytest.mark.parametrize("name", SCENARIOS)
def test_one_crash(name: str, loader: str) -> None:
    """A sample, for a developer's loop."""
    explore(name, loader, 20)


@pytest.mark.slow
@pytest.mark.parametrize("loader", LOADER_NAMES)
@pytest.mark.parametrize("name", SCENARIOS)
def test_every_crash(name: str, loader: str) -> None:
    """And after some of them another one."""
    explore(name, loader, 0, 0.3 if name in MAIN else 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("loader", LOADER_NAMES)
def test_two_crashes(loader: str) -> None:
    explore("reinstall", loader, 0, 10)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("loader", LOADER_NAMES)
def test_every_pair_of_crashes(loader: str) -> None:
    explore("reinstall", loader, 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("loader", LOADER_NAMES)
@pytest.mark.parametrize("name", (*MAIN, "reinstall, flaky"))
def test_three_crashes(name: str, loader: str) -> None:
    explore(name, loader, 40, 1.5, 1)


@pytest.mark.slow
@pytest.mark.parametrize("loader", LOADER_NAMES)
@pytest.mark.parametrize("name", BAD)
def test_three_crashes_in_a_bad_world(name: str, loader: str) -> None:
    explore(name, loader, 6, 1.5, 1)
