"""A cluster whose nodes rewrite themselves is the same cluster afterwards."""

from __future__ import annotations

import pytest

from tests.kube.cluster import CONTROL_PLANE, WORKER, Seen
from tests.lab.kubernetes import STAND_IN, VERSION

pytestmark = [pytest.mark.long, pytest.mark.node, pytest.mark.kube]
LINES = {"api", "ca", "credential", "kept", "skew", "pods"}  # lines of the proof, of any node
BOTH = pytest.mark.parametrize("name", [CONTROL_PLANE, WORKER])
LATER = pytest.mark.parametrize(("point", "version"), [("reinstalled", VERSION), ("upgraded", STAND_IN)])


def did(seen: Seen, what: str) -> list[str]:
    """Steps of a reinstall that had something to do and did it."""
    return [event["step"] for event in seen.figures.steps[what]
            if event["kind"] == "succeeded" and event["step"] and event["message"] != "nothing to do"]


def test_the_story_came_to_its_end(seen: Seen) -> None:
    assert not seen.broke_off, seen.broke_off


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
            assert line.partition("=")[2].partition("#")[0].strip() == '""', line


@BOTH
def test_the_agent_is_at_rest_in_the_working_slot(seen: Seen, name: str) -> None:
    status = seen.statuses[name]
    assert status["current"] == "working" and status["transaction"]["state"] == "done"
    assert {slot["release"] for slot in status["slots"].values()} == {2}


@pytest.mark.parametrize(("name", "wanted"), [(WORKER, LINES), (CONTROL_PLANE, LINES | {"quorum", "snapshot"})])
def test_the_proof_was_complete_before_the_first_reinstall(seen: Seen, name: str, wanted: set[str]) -> None:
    lines = {line["name"]: line["ok"] for line in seen.proof[name]}
    assert set(lines) == wanted and all(lines.values()), seen.proof[name]


def test_a_worker_takes_no_kubelet_newer_than_its_api_server(seen: Seen) -> None:
    refused = seen.refused
    assert refused is not None and refused.code == 1 and "[kubelet-newer]" in refused.err, refused


def test_etcd_was_saved_before_the_control_plane_was_upgraded(seen: Seen) -> None:
    assert len(seen.snapshots) == 2 and all(found["keys"] > 0 and found["sha256"] for found in seen.snapshots)
    order = did(seen, f"{CONTROL_PLANE}: upgrade")
    assert order.index("snapshot-etcd") < order.index("upgrade-control-plane") < order.index("write-working")


@pytest.mark.parametrize(("name", "step"), [(CONTROL_PLANE, "write-working"), (WORKER, "rejoin")])
def test_power_was_cut_in_the_middle(seen: Seen, name: str, step: str) -> None:
    ended = [event["kind"] for event in seen.figures.steps[f"{name}: upgrade"] if event["step"] == step]
    assert "failed" in ended and ended[-1] == "succeeded", ended


@pytest.mark.parametrize(("point", "name"), [
    ("before", WORKER),  # which it prefers
    (f"{WORKER}: reinstall", CONTROL_PLANE),  # it had to go, and nothing brings it back
    (f"{CONTROL_PLANE}: reinstall", WORKER),
    (f"{WORKER}: upgrade", CONTROL_PLANE),
])
def test_pods_left_the_node_that_was_reinstalled(seen: Seen, point: str, name: str) -> None:
    assert seen.pod[point] == name, seen.pod


@pytest.mark.parametrize("what", ["reinstall", "upgrade"])
@BOTH
def test_a_node_was_drained_before_it_went_down(seen: Seen, name: str, what: str) -> None:
    order = did(seen, f"{name}: {what}")
    assert order.index("drain") < order.index("boot-image") < order.index("uncordon"), order
