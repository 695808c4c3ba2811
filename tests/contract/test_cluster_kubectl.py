"""What a real kubectl makes of an API server's answers, and that the fake one makes the same of them."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from k8r_agent.cluster import drain
from k8r_agent.cluster.answer import Kind
from k8r_agent.cluster.api import Api
from k8r_agent.effects.commands import SubprocessCommands
from k8r_agent.effects.kube import NodeCluster
from k8r_agent.ports.cluster import As
from k8r_agent.steps.drain import Drain, Uncordon
from tests.fakes import apiserver
from tests.fakes.cluster import FakeCluster
from tests.fakes.kuberaw import marked, run_pod
from tests.fakes.member import ME, OTHER, Member, member

CONFIG = """apiVersion: v1
kind: Config
clusters: [{{name: c, cluster: {{server: "http://127.0.0.1:{port}"}}}}]
users: [{{name: u, user: {{}}}}]
contexts: [{{name: x, context: {{cluster: c, user: u}}}}]
current-context: x
"""


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.slow)])
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Member]:
    found = member()
    if request.param == "fake":
        yield found
        return
    with apiserver.serving(found.api) as port:
        found.world.cluster = real_cluster(found.cluster, tmp_path, port)
        yield found


def real_cluster(fake: FakeCluster, root: Path, port: int) -> Any:
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed")
    for name, data in fake.root.live.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    for name in ("kubeadm", "kubelet"):
        (root / "usr/bin").mkdir(parents=True, exist_ok=True)
        (root / "usr/bin" / name).touch()
    (root / As.NODE.value).write_text(CONFIG.format(port=port))
    return NodeCluster(SubprocessCommands(), root=root)


def test_a_node_is_drained_and_let_back(node: Member) -> None:
    run_pod(node.api, "default/web-2", ME, budget="web")
    run_pod(node.api, "default/bare", ME, owner="")
    node.api.change({**node.api.data, "budgets": {"web": 0}, "page": 2})
    node.machine.on_sleep = lambda: node.api.change({**node.api.data, "budgets": {"web": 1}})
    Drain().apply(node.world)
    assert node.is_cordoned() and marked(node.api, ME)
    assert [name for name, pod in node.api.data["pods"].items() if pod["node"] == ME] == ["default/bare"]
    Uncordon().apply(node.world)
    assert not node.is_cordoned() and not marked(node.api, ME)


def test_each_refusal_is_told_from_the_others(node: Member) -> None:
    api = Api(node.world.cluster)
    run_pod(node.api, "default/tight", ME, budget="tight")
    run_pod(node.api, "default/odd", ME, budgets=2)
    node.api.change({**node.api.data, "budgets": {"tight": 0}, "selective": True})
    pods = {pod.name: pod for pod in api.pods(ME)}

    def evict(name: str, uid: str = "") -> Kind:
        pod = pods[name]
        body = drain.eviction(pod, 31)
        body["deleteOptions"]["preconditions"]["uid"] = uid or pod.uid
        return api.create(f"{drain.pod_path(pod)}/eviction", body).kind

    assert [evict("tight"), evict("odd"), evict("web-1", "another")] == [Kind.BLOCKED, Kind.SERVER, Kind.CONFLICT]
    assert api.get(drain.node_path("nobody")).kind is Kind.NOT_FOUND
    assert api.get(drain.NODES).kind is Kind.FORBIDDEN
    assert api.minor() == 31
    stale = api.get(drain.node_path(OTHER)).body
    run_pod(node.api, "default/new", OTHER)
    assert api.replace(drain.node_path(OTHER), drain.cordon(stale, "t")).kind is Kind.CONFLICT
    assert api.delete(drain.pod_path(pods["web-1"])).kind is Kind.OK
    assert evict("web-1") is Kind.NOT_FOUND


def test_nobody_there_and_nobody_known(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    cluster = real_cluster(member().cluster, tmp_path, port)
    assert Api(cluster).get("/version").kind is Kind.UNREACHABLE
    (tmp_path / As.NODE.value).unlink()
    assert Api(cluster).get("/version").kind is Kind.STRANGER
