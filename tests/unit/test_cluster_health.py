"""Is the node as well in its cluster as before? What counts, and whose word."""

from __future__ import annotations

import pytest

from k8r_agent.cluster import paths
from k8r_agent.errors import HealthFailed
from k8r_agent.steps import membership
from k8r_agent.steps.cluster_health import BEFORE, ClusterHealth, good, is_ready, observe
from tests.fakes.upgrading import ME, ControlPlane, control_plane


def rebooted() -> ControlPlane:
    """The only control plane, whose Node is Ready by what it said in the boot before: nobody was there to doubt it."""
    node = control_plane()
    known = membership.of(node.world)
    assert known is not None
    node.cluster.root.write(paths.STAMP, f"{known.role} {known.node_name} {known.ca_hash}\n".encode())
    say(node)
    node.world.remember(BEFORE, good(node.world))
    assert node.world.recall(BEFORE) == "kubelet api-server etcd node-ready"
    node.machine.boot()
    return node


def say(node: ControlPlane, *, ready: bool = True) -> None:
    """The kubelet reports."""
    node.api().register(ME, version="1.31.4", ready=ready, boot=node.machine.boot_id())


def test_what_a_node_said_in_an_earlier_boot_does_not_count() -> None:
    node = rebooted()
    found = {check.name: check for check in observe(node.world)}
    assert not found["node-ready"].ok and "earlier boot" in found["node-ready"].detail
    with pytest.raises(HealthFailed, match="earlier boot"):
        ClusterHealth(sleep=node.machine.sleep).apply(node.world)


def test_it_counts_as_soon_as_its_kubelet_says_so() -> None:
    node = rebooted()
    started = node.machine.monotonic()

    def kubelet() -> None:
        """Up after half a minute, well after a minute."""
        if (up := node.machine.monotonic() - started) >= 30:
            say(node, ready=up >= 60)

    node.machine.on_sleep = kubelet
    step = ClusterHealth(sleep=node.machine.sleep)
    step.apply(node.world)
    assert step.done(node.world) and 60 <= node.machine.monotonic() - started < 70


@pytest.mark.parametrize("said", ["", "[]", "{}", '{"status": []}', '{"status": {"nodeInfo": [], "conditions": []}}'])
def test_a_node_that_says_nothing_is_not_ready(said: str) -> None:
    assert is_ready(said, boot="b") == (False, "the Node says nothing about being Ready")


def test_a_node_without_a_boot_id_is_believed() -> None:
    assert is_ready('{"status": {"conditions": [{"type": "Ready", "status": "True"}]}}', boot="b")[0]
