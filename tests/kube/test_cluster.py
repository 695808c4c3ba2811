"""A cluster whose nodes rewrite themselves is the same cluster afterwards."""

from __future__ import annotations

import pytest

from tests.kube.cluster import Seen
from tests.lab.kubernetes import VERSION

pytestmark = [pytest.mark.long, pytest.mark.node, pytest.mark.kube]


def test_objects_survive_the_reinstall_of_the_only_control_plane(seen: Seen) -> None:
    before, after = seen.cluster["before"], seen.cluster["after"]
    assert after["data"] == before["data"] == {"told": "once"}
    assert after["uid"] == before["uid"] and after["cluster"] == before["cluster"]
    assert after["resourceVersion"] >= before["resourceVersion"]


def test_the_cluster_has_the_same_authority(seen: Seen) -> None:
    assert seen.cluster["after"]["ca"] == seen.cluster["before"]["ca"]


@pytest.mark.parametrize("name", ["cp-1", "worker-1"])
def test_a_node_comes_back_as_the_same_node(seen: Seen, name: str) -> None:
    before, after = seen.node[f"{name} before"], seen.node[f"{name} after"]
    assert after["uid"] == before["uid"]
    assert after["ready"] and not after["cordoned"]
    assert after["kubelet"]["machineID"] == before["kubelet"]["machineID"]
    assert after["kubelet"]["bootID"] != before["kubelet"]["bootID"], "it was reinstalled"
    assert after["kubelet"]["kubeletVersion"] == f"v{VERSION}"


def test_a_used_token_is_not_left_on_the_boot_partition(seen: Seen) -> None:
    assert "join_token" in seen.k8r_toml
    for line in seen.k8r_toml.splitlines():
        if line.startswith(("join_token", "certificate_key")):
            assert line.partition("=")[2].strip() == '""', line


@pytest.mark.parametrize("name", ["cp-1", "worker-1"])
def test_the_agent_is_at_rest_in_the_working_slot(seen: Seen, name: str) -> None:
    status = seen.statuses[name]
    assert status["current"] == "working" and status["transaction"]["state"] == "done"
