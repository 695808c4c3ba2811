"""The crash matrix of the way out of a cluster: wherever it dies, the node takes pods again, and etcd is untouched."""

from __future__ import annotations

import pytest

from tests.crash.leaving import as_it_was, control_plane, stranded_worker, worker
from tests.crash.scenarios import DeadImage, Scenario, Unhealthy, asked, cancelled, explore, judge
from tests.crash.test_matrix import OLD, STAYS

DONE = judge(task="reinstall", done=2, patience=2)
SCENARIOS: dict[str, Scenario] = {
    "a worker": (lambda at: asked(worker(at), "reinstall"), as_it_was(DONE, pod=False)),
    "a worker that somebody cordoned": (
        lambda at: asked(worker(at, by_admin=True), "reinstall"), as_it_was(DONE, cordoned=True)),
    "a worker whose pods may not go": (
        lambda at: asked(worker(at, blocked=True), "reinstall"),
        as_it_was(judge(task="reinstall", done=0, failed=OLD, always=True), pod=True)),
    "a worker, cancelled in time": (
        lambda at: asked(cancelled(worker(at), "boot-image"), "reinstall"),
        as_it_was(judge(task="reinstall", done=0, failed=OLD, always=True))),
    "a worker, the new image is dead": (
        lambda at: asked(worker(at, DeadImage()), "reinstall"),
        as_it_was(judge(task="reinstall", done=2, failed=OLD, always=True))),
    "a worker, the new system is not well": (
        lambda at: asked(worker(at, Unhealthy()), "reinstall"),
        as_it_was(judge(task="reinstall", done=2, failed=STAYS, always=True))),
    "a worker is rescued": (
        lambda at: asked(stranded_worker(at), "rescue", source="release-1", release="1"),
        as_it_was(judge(task="rescue", done=1, patience=2))),
    "the only control plane": (
        lambda at: asked(control_plane(at), "reinstall"), as_it_was(DONE, pod=True)),
    "the only control plane, the new image is dead": (
        lambda at: asked(control_plane(at, DeadImage()), "reinstall"),
        as_it_was(judge(task="reinstall", done=2, failed=OLD, always=True), pod=True)),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_one_crash(name: str) -> None:
    """A sample, for a developer's loop."""
    explore(name, SCENARIOS[name], "systemd-boot", 4)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", SCENARIOS)
def test_every_crash(name: str) -> None:
    explore(name, SCENARIOS[name], "systemd-boot", 0)
