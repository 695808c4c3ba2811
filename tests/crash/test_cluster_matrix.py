"""The crash matrix of nodes in a cluster: etcd's data is never lost, and the node is always back in its cluster."""

from __future__ import annotations

import pytest

from tests.crash.clusters import done, founder, inside, joiner, networker, updated
from tests.crash.scenarios import Scenario, asked, explore
from tests.fakes.loaders import LOADERS

SCENARIOS: dict[str, Scenario] = {
    "the first control plane": (founder, done("join", 1)),
    "the first control plane, and its pod network": (networker, done("join", 1)),
    "a worker joins": (joiner, done("join", 1)),
    "reinstall of a control plane": (
        lambda at: asked(updated(founder(at)), "reinstall"), done("reinstall", 2)),
    "reinstall of a worker": (
        lambda at: asked(updated(joiner(at)), "reinstall"), done("reinstall", 2)),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_one_crash(name: str) -> None:
    """A sample, for a developer's loop."""
    explore(name, SCENARIOS[name], "systemd-boot", 20)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", SCENARIOS)
def test_every_crash(name: str) -> None:
    """And after some of them another one."""
    explore(name, SCENARIOS[name], "systemd-boot", 0, 0.3)


def test_at_rest_nothing_is_done_again() -> None:
    node = inside(founder(LOADERS["systemd-boot"]))
    made = len(node.cluster.made)
    node.power_on()
    assert node.session() is None and len(node.cluster.made) == made and node.cluster.kubelet
