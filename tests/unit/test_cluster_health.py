"""Is the node as well in its cluster as before? What counts, and whose word."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from k8r_agent.cluster import paths
from k8r_agent.errors import HealthFailed
from k8r_agent.model.cluster import Membership
from k8r_agent.ports.commands import Result
from k8r_agent.steps import membership
from k8r_agent.steps.cluster_health import BEFORE, ClusterHealth, good, is_ready, observe
from k8r_agent.store import cluster as store
from tests.fakes.upgrading import ME, ControlPlane, control_plane


def rebooted() -> ControlPlane:
    """The only control plane, whose Node is Ready by what it said in the boot before: nobody was there to doubt it."""
    node = control_plane()
    known = membership.of(node.world)
    assert known is not None
    become(node, known)
    say(node)
    node.world.remember(BEFORE, good(node.world))
    assert node.world.recall(BEFORE) == "kubelet api-server etcd node-ready"
    node.machine.boot()
    return node


def become(node: ControlPlane, member: Membership) -> None:
    store.remember(node.files, member)
    node.cluster.root.write(paths.STAMP, f"{member.role} {member.node_name} {member.ca_hash}\n".encode())


def say(node: ControlPlane, *, ready: bool = True) -> None:
    """The kubelet reports."""
    node.api().register(ME, version="1.31.4", ready=ready, boot=node.machine.boot_id())


def test_what_a_node_said_in_an_earlier_boot_does_not_count() -> None:
    node = rebooted()
    found = {check.name: check for check in observe(node.world)}
    assert not found["node-ready"].ok and "earlier boot" in found["node-ready"].detail
    with pytest.raises(HealthFailed, match="earlier boot"):
        ClusterHealth().apply(node.world)


def test_it_counts_as_soon_as_its_kubelet_says_so() -> None:
    node = rebooted()
    started = node.machine.monotonic()

    def kubelet() -> None:
        """Up after half a minute, well after a minute."""
        if (up := node.machine.monotonic() - started) >= 30:
            say(node, ready=up >= 60)

    node.machine.on_sleep = kubelet
    step = ClusterHealth()
    step.apply(node.world)
    assert step.done(node.world) and 60 <= node.machine.monotonic() - started < 70


PLUGIN = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network " \
         "plugin returns error: cni plugin not initialized"  # as kubelets from 1.24 on say it


def pods(reason: str) -> str:
    """As the API server says it of a pod network whose first container waits."""
    waiting = {"waiting": {"reason": reason, "message": "Back-off pulling image"}} if reason else {"running": {}}
    return json.dumps({"kind": "PodList", "metadata": {}, "items": [
        {"metadata": {"name": "kube-flannel-ds-x"}, "status": {"initContainerStatuses": [{"state": waiting}]}}]})


def answers(at: ControlPlane, monkeypatch: pytest.MonkeyPatch, **said: Result) -> None:
    """`node`: to the question for the Node, `pods` to that for its pods."""
    real = at.cluster.kubectl

    def kubectl(args: Sequence[str], **more: Any) -> Result:
        if args[:2] == ["get", "node"] and "node" in said:
            return said["node"]
        return said["pods"] if args[1] == "--raw" and "/pods?" in args[2] else real(args, **more)

    monkeypatch.setattr(at.cluster, "kubectl", kubectl)


def unready(node: ControlPlane, message: str) -> Result:
    return Result(0, json.dumps({"status": {"nodeInfo": {"bootID": node.machine.boot_id()}, "conditions": [
        {"type": "Ready", "status": "False", "message": message}]}}), "")


def checked(node: ControlPlane) -> float:
    """Seconds until it was put up with."""
    started = node.machine.monotonic()
    ClusterHealth().apply(node.world)
    return node.machine.monotonic() - started


def test_a_registry_that_gives_no_images_is_waited_for_and_condemns_no_release(
        monkeypatch: pytest.MonkeyPatch) -> None:
    node = rebooted()
    answers(node, monkeypatch, node=unready(node, PLUGIN), pods=Result(0, pods("ImagePullBackOff"), ""))
    assert checked(node) >= 600
    assert "kube-flannel-ds-x: ImagePullBackOff" in " ".join(node.report.texts)


@pytest.mark.parametrize("message, found", [(PLUGIN, Result(0, pods(""), "")), (PLUGIN, Result(0, "[]", "")),
                                            (PLUGIN, Result(1, "", "Error from server (Forbidden): no")),
                                            ("PLEG is not healthy", Result(0, pods("ErrImagePull"), ""))])
def test_a_node_without_network_for_another_reason_is_not_well(
        monkeypatch: pytest.MonkeyPatch, message: str, found: Result) -> None:
    node = rebooted()
    answers(node, monkeypatch, node=unready(node, message), pods=found)
    with pytest.raises(HealthFailed):
        checked(node)


@pytest.mark.parametrize("said", ["Error from server: etcdserver: request timed out",
                                  "Error from server (InternalError): an error on the server"])
def test_an_api_server_that_is_ill_condemns_no_worker(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    node = rebooted()
    known = membership.of(node.world)
    assert known is not None
    become(node, replace(known, role="worker"))
    answers(node, monkeypatch, node=Result(1, "", said))
    assert checked(node) >= 600
    become(node, known)  # of a control plane it is its own
    with pytest.raises(HealthFailed):
        checked(node)


@pytest.mark.parametrize("said", ["", "[]", "{}", '{"status": []}', '{"status": {"nodeInfo": [], "conditions": []}}'])
def test_a_node_that_says_nothing_is_not_ready(said: str) -> None:
    assert is_ready(said, boot="b") == (False, "the Node says nothing about being Ready")


def test_a_node_without_a_boot_id_is_believed() -> None:
    assert is_ready('{"status": {"conditions": [{"type": "Ready", "status": "True"}]}}', boot="b")[0]
