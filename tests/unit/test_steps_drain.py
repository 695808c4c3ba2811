"""Cordon, evict, wait; and the node is never left cordoned by us, nor uncordoned against an administrator's word."""

from __future__ import annotations

import json
from typing import Any

import pytest

from k8r_agent.errors import ClusterError, K8rError, Refused
from k8r_agent.model.slots import Slot
from k8r_agent.steps.drain import FACT, Drain, Uncordon
from k8r_agent.store import cordon
from tests.fakes import kuberaw
from tests.fakes.kuberaw import change_node, marked, run_pod
from tests.fakes.member import ME, OTHER, Member, member


def drain(node: Member) -> None:
    step = Drain()
    assert not step.done(node.world)
    step.apply(node.world)
    assert step.done(node.world)


def uncordon(node: Member) -> None:
    step = Uncordon()
    step.apply(node.world)
    assert step.done(node.world)


def mine(node: Member) -> list[str]:
    return [name for name, pod in node.api.data["pods"].items() if pod["node"] == ME]


def test_pods_leave_and_the_node_takes_none_until_it_is_back() -> None:
    node = member()
    run_pod(node.api, "default/db-0", ME, owner="StatefulSet")
    run_pod(node.api, "kube-system/proxy", ME, owner="DaemonSet")
    run_pod(node.api, "default/bare", ME, owner="")
    drain(node)
    assert mine(node) == ["default/bare", "kube-system/proxy"] and node.is_cordoned()
    assert marked(node.api, ME) and node.world.recall(FACT) == "drained"
    uncordon(node)
    assert not node.is_cordoned() and not marked(node.api, ME) and not node.is_cordoned(OTHER)
    assert Uncordon().done(node.world)


def test_many_pods_come_in_pages() -> None:
    node = member()
    for number in range(7):
        run_pod(node.api, f"default/web-{number}", ME)
    node.api.change({**node.api.data, "page": 2})
    drain(node)
    assert mine(node) == []


@pytest.mark.fault(37)
def test_an_administrators_cordon_survives() -> None:
    node = member()
    change_node(node.api, ME, unschedulable=True)
    drain(node)
    uncordon(node)
    assert node.is_cordoned() and not marked(node.api, ME)


@pytest.mark.fault(37)
def test_a_cordon_that_a_failed_reinstall_left_is_undone_by_the_next() -> None:
    node = member()
    drain(node)
    node.begin("t2")
    drain(node)
    uncordon(node)
    assert not node.is_cordoned()


def test_a_cordon_of_ours_is_known_by_its_annotation_alone() -> None:
    node = member()
    drain(node)
    cordon.drop(node.files)
    node.begin("t2")
    drain(node)
    uncordon(node)
    assert not node.is_cordoned()


def test_a_budget_is_waited_for() -> None:
    node = member()
    run_pod(node.api, "default/web-2", ME, budget="web")
    node.api.change({**node.api.data, "budgets": {"web": 0}})

    def recover() -> None:
        if node.machine.uptime > 50:
            node.api.change({**node.api.data, "budgets": {"web": 1}})

    node.machine.on_sleep = recover
    drain(node)
    assert mine(node) == [] and any("waiting for 1 pods" in text for text in node.report.texts)


def blocked(**settings: Any) -> Member:
    node = member(**settings)
    run_pod(node.api, "default/web-2", ME, budget="web")
    node.api.change({**node.api.data, "budgets": {"web": 0}})
    return node


def test_a_budget_that_is_never_met_ends_the_reinstall() -> None:
    node = blocked()
    with pytest.raises(Refused) as caught:
        drain(node)
    assert "default/web-2: " + kuberaw.BUDGET in caught.value.why and "drain_timeout" in caught.value.hint
    assert "default/web-2" in mine(node)
    uncordon(node)  # as on_failure does
    assert not node.is_cordoned()


def test_or_is_overridden_where_the_setting_says_so() -> None:
    node = blocked(when_drain_blocked="delete")
    drain(node)
    assert mine(node) == []


def test_a_pod_that_does_not_end_ends_the_reinstall_in_any_case() -> None:
    node = blocked(when_drain_blocked="delete")
    run_pod(node.api, "default/stuck", ME, stuck=True)
    with pytest.raises(Refused, match="default/stuck: does not end"):
        drain(node)


def test_a_pod_with_two_budgets_is_named() -> None:
    node = member()
    run_pod(node.api, "default/odd", ME, budgets=2)
    with pytest.raises(Refused, match="more than one PodDisruptionBudget"):
        drain(node)


def test_the_deadline_survives_a_restart_of_the_agent() -> None:
    node = blocked()
    began = node.machine.now()

    def die() -> None:
        if node.machine.now() - began >= 40:
            raise KeyboardInterrupt

    node.machine.on_sleep = die
    with pytest.raises(KeyboardInterrupt):
        drain(node)
    node.machine.on_sleep = lambda: None
    with pytest.raises(Refused):
        drain(node)
    assert 60 <= node.machine.now() - began < 70


def test_a_clock_that_was_set_back_does_not_prolong_the_drain() -> None:
    node = blocked()

    def die() -> None:
        raise KeyboardInterrupt

    node.machine.on_sleep = die
    with pytest.raises(KeyboardInterrupt):
        drain(node)
    node.machine.on_sleep, began = lambda: None, node.machine.monotonic()
    node.machine.clock -= 86_400
    with pytest.raises(Refused):
        drain(node)
    assert node.machine.monotonic() - began < 70


@pytest.mark.fault(38)
@pytest.mark.parametrize("others", ["none", "cordoned", "not ready", "tainted"])
def test_where_pods_have_nowhere_to_go_nobody_waits(others: str) -> None:
    node = blocked()
    node.cluster.root.write("etc/kubernetes/admin.conf", b"admin")
    if others == "none":
        data = node.api.data
        node.api.change({**data, "nodes": {ME: data["nodes"][ME]}})
    else:
        changes: dict[str, dict[str, Any]] = {
            "cordoned": {"unschedulable": True}, "not ready": {"ready": False},
            "tainted": {"taints": [{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]}}
        change_node(node.api, OTHER, **changes[others])
    before, began = mine(node), node.machine.now()
    drain(node)
    assert mine(node) == before and node.machine.now() == began and node.world.recall(FACT) == "nowhere"
    assert "nowhere to go" in node.report.texts[-1]
    uncordon(node)
    assert not node.is_cordoned()


def test_a_kubelet_that_may_not_see_the_others_drains_all_the_same() -> None:
    node = member()
    node.api.change({**node.api.data, "selective": True})
    drain(node)
    assert mine(node) == [] and node.world.recall(FACT) == "drained"


def test_an_api_server_that_does_not_answer_stops_the_drain_unless_forced() -> None:
    node = member()
    node.api.answers = False
    with pytest.raises(ClusterError) as caught:
        drain(node)
    assert "refused" in caught.value.why and caught.value.hint
    node.begin("t2", force="yes")
    drain(node)
    assert node.world.recall(FACT) == "unreachable" and Uncordon().done(node.world)


def test_one_that_comes_back_is_waited_for() -> None:
    node = member()
    step = Uncordon()
    drain(node)
    node.api.answers = False

    def back() -> None:
        node.api.answers = node.machine.uptime > 100

    node.machine.on_sleep = back
    step.apply(node.world)
    assert not node.is_cordoned()


def test_one_that_does_not_leaves_the_record() -> None:
    node = member()
    drain(node)
    node.api.answers = False
    step = Uncordon()
    step.apply(node.world)  # does not condemn the new system
    assert step.done(node.world) and "tried again later" in node.report.texts[-1]
    node.boot_into(Slot.WORKING)
    assert not step.done(node.world)
    node.world.remember("failed-step", "health-check")
    with pytest.raises(ClusterError, match="still cordoned"):
        step.apply(node.world)
    assert cordon.load(node.files) is not None


def test_somebody_else_may_change_the_node_meanwhile() -> None:
    node = member()
    real, left = node.cluster.kubectl, [2]

    def interfering(args: Any, **more: Any) -> Any:
        if args[0] == "replace" and left[0]:
            left[0] -= 1
            change_node(node.api, ME, annotations={"heartbeat": str(left[0])})
        return real(args, **more)

    node.cluster.kubectl = interfering  # type: ignore[method-assign]
    drain(node)
    assert node.is_cordoned() and node.api.data["nodes"][ME]["annotations"]["heartbeat"] == "0"


def test_in_the_image_slot_nothing_runs_and_nothing_can_be_undone() -> None:
    node = member()
    drain(node)
    node.boot_into(Slot.IMAGE)
    node.begin("t2")
    assert Drain().done(node.world)
    with pytest.raises(Refused, match="stays cordoned"):
        Uncordon().apply(node.world)
    assert json.loads(node.files.live[cordon.NAME])["node"] == ME


def test_a_node_that_is_gone_from_the_cluster_is_not_cordoned() -> None:
    node = member()
    drain(node)
    data = node.api.data
    node.api.change({**data, "nodes": {OTHER: data["nodes"][OTHER]}})
    uncordon(node)


def test_a_node_without_kubernetes_or_without_a_cluster_has_nothing_to_do() -> None:
    node = member()
    node.cluster.root.remove("etc/kubernetes/kubelet.conf")
    assert Drain().done(node.world) and Uncordon().done(node.world)
    node.cluster.version = ""
    assert Drain().done(node.world)


@pytest.mark.fault(37)
@pytest.mark.parametrize("point", range(1, 9))
def test_killed_anywhere_it_ends_uncordoned(point: int) -> None:
    """At each change of the state partition and each request."""
    node = member()
    count, real = [0], node.cluster.kubectl

    class Killed(Exception):
        pass

    def step() -> None:
        count[0] += 1
        if count[0] == point:
            raise Killed

    def kubectl(args: Any, **more: Any) -> Any:
        step()
        found = real(args, **more)
        step()
        return found

    node.cluster.kubectl = kubectl  # type: ignore[method-assign]
    node.files.point = lambda name: step() if name.endswith(":after") else None
    try:
        drain(node)
    except (Killed, K8rError):
        pass
    node.cluster.kubectl, node.files.point = real, lambda name: None  # type: ignore[method-assign]
    if not Uncordon().done(node.world):
        uncordon(node)
    assert not node.is_cordoned() and not marked(node.api, ME)
