"""A cluster whose nodes rewrite themselves is the same cluster afterwards."""

from __future__ import annotations

import pytest

from tests.kube.cluster import CONTROL_PLANE, WORKER, Seen
from tests.lab.kubernetes import STAND_IN, VERSION

pytestmark = [pytest.mark.long, pytest.mark.node, pytest.mark.kube]
BOTH = pytest.mark.parametrize("name", [CONTROL_PLANE, WORKER])
LATER = pytest.mark.parametrize(("point", "version"), [("reinstalled", VERSION), ("upgraded", STAND_IN)])


@LATER
def test_objects_survive_the_reinstall_of_the_only_control_plane(seen: Seen, point: str, version: str) -> None:
    before, after = seen.cluster["before"], seen.cluster[point]
    assert after["data"] == before["data"] == {"told": "once"}
    assert after["uid"] == before["uid"] and after["cluster"] == before["cluster"]
    assert after["resourceVersion"] >= before["resourceVersion"]
    assert after["ca"] == before["ca"], "the cluster has another authority"
    assert after["version"] == f"v{version}"


@BOTH
@LATER
def test_a_node_comes_back_as_the_same_node(seen: Seen, name: str, point: str, version: str) -> None:
    before, after = seen.node[f"{name} before"], seen.node[f"{name} {point}"]
    assert after["uid"] == before["uid"]
    assert after["ready"] and not after["cordoned"]
    assert after["kubelet"]["machineID"] == before["kubelet"]["machineID"]
    assert after["kubelet"]["bootID"] != before["kubelet"]["bootID"], "it was reinstalled"
    assert after["kubelet"]["kubeletVersion"] == f"v{version}"


def test_a_used_token_is_not_left_on_the_boot_partition(seen: Seen) -> None:
    assert "join_token" in seen.k8r_toml
    for line in seen.k8r_toml.splitlines():
        if line.startswith(("join_token", "certificate_key")):
            assert line.partition("=")[2].strip() == '""', line


@BOTH
def test_the_agent_is_at_rest_in_the_working_slot(seen: Seen, name: str) -> None:
    status = seen.statuses[name]
    assert status["current"] == "working" and status["transaction"]["state"] == "done"
    assert {slot["release"] for slot in status["slots"].values()} == {2}


def test_the_proof_was_complete_before_the_first_reinstall(seen: Seen) -> None:
    lines = {line["name"]: line["ok"] for line in seen.proof}
    assert {"api", "ca", "credential", "skew", "pods"} <= set(lines) and all(lines.values()), seen.proof


def test_etcd_was_saved_before_the_control_plane_was_upgraded(seen: Seen) -> None:
    assert len(seen.snapshots) == 2 and all(found["keys"] > 0 and found["sha256"] for found in seen.snapshots)
    order = [event["step"] for event in seen.figures.steps[f"{CONTROL_PLANE}: upgrade"]
             if event["kind"] == "succeeded" and event["step"]]
    assert order.index("snapshot-etcd") < order.index("upgrade-control-plane") < order.index("write-working")


@pytest.mark.parametrize(("name", "step"), [(CONTROL_PLANE, "write-working"), (WORKER, "rejoin")])
def test_power_was_cut_in_the_middle(seen: Seen, name: str, step: str) -> None:
    ended = [event["kind"] for event in seen.figures.steps[f"{name}: upgrade"] if event["step"] == step]
    assert "failed" in ended and ended[-1] == "succeeded", ended


def test_the_worker_was_drained(seen: Seen) -> None:
    told = [event for event in seen.figures.steps[f"{WORKER}: reinstall"] if event["step"] == "drain"]
    assert told[-1]["kind"] == "succeeded" and not any("nowhere" in event["message"] for event in told), told
