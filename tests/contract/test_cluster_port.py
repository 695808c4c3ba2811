"""Cluster: what steps rely on holds for the fake and for the real thing, as far as no cluster is needed for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from k8r_agent.effects.commands import commands
from k8r_agent.effects.kube import NodeCluster
from k8r_agent.errors import NoState, Protected
from k8r_agent.ports.cluster import As, Cluster, NoKubernetes
from tests.fakes.cluster import FakeCluster
from tests.fakes.statefiles import FakeStateFiles


@pytest.fixture(params=["fake", "real"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Cluster:
    if request.param == "fake":
        return FakeCluster()
    (tmp_path / "state").mkdir()
    return NodeCluster(commands(), root=tmp_path / "root", state=tmp_path / "state", mounted=lambda path: True)


@pytest.fixture(params=["fake", "real"])
def stateless(request: pytest.FixtureRequest, tmp_path: Path) -> Cluster:
    """A node that has lost its state partition."""
    if request.param == "fake":
        return FakeCluster(files=FakeStateFiles(on_partition=False))
    return NodeCluster(commands(), root=tmp_path, state=tmp_path / "state")


def test_a_file_is_there_after_it_was_placed_and_gone_after_it_was_removed(cluster: Cluster) -> None:
    path = "etc/kubernetes/pki/etcd/ca.crt"
    assert cluster.read(path) is None and cluster.names("etc/kubernetes") == ()
    cluster.place(path, b"one")
    cluster.place(path, b"two")
    cluster.place("etc/kubernetes/admin.conf", b"admin")
    assert cluster.read(path) == b"two"
    assert cluster.names("etc/kubernetes") == ("admin.conf", "pki")
    cluster.remove("etc/kubernetes/pki")
    cluster.remove("etc/kubernetes/admin.conf")
    cluster.remove("etc/kubernetes/admin.conf")
    assert cluster.names("etc/kubernetes") == () and cluster.read(path) is None


def test_a_directory_is_no_file(cluster: Cluster) -> None:
    """A kubelet that ran has left some, and what an interrupted kubeadm left is looked through before the next try."""
    cluster.place("var/lib/kubelet/pki/kubelet.crt", b"x")
    assert cluster.read("var/lib/kubelet/pki") is None and cluster.names("var/lib/kubelet/pki") == ("kubelet.crt",)


def test_what_was_written_beside_the_port_can_be_made_durable(cluster: Cluster) -> None:
    cluster.sync()
    cluster.place("etc/kubernetes/admin.conf", b"x")
    cluster.place("var/lib/kubelet/config.yaml", b"x")
    cluster.sync()
    assert cluster.read("etc/kubernetes/admin.conf") == b"x"


@pytest.mark.parametrize("path", ["etc/shadow", "var/lib/etcd", "var/lib/k8r/cluster/etcd"])
def test_nothing_else_is_ever_removed(cluster: Cluster, path: str) -> None:
    with pytest.raises(Protected):
        cluster.remove(path)


def test_a_root_without_kubernetes_says_so() -> None:
    for root in (FakeCluster(version=""), NodeCluster(commands(), root=Path("/nonexistent")), NoKubernetes()):
        assert root.present() is False


def test_a_credential_that_is_not_there_is_an_answer(cluster: Cluster) -> None:
    if isinstance(cluster, NodeCluster):
        pytest.skip("kubectl is met on virtual nodes")
    result = cluster.kubectl(["get", "node", "node-1"], who=As.NODE)
    assert result.code == 1 and "no such file" in result.stderr


def test_etcd_is_not_kept_beside_the_state_partition(stateless: Cluster) -> None:
    assert not stateless.etcd_kept()
    with pytest.raises(NoState):
        stateless.keep_etcd()


def test_nobody_answers_where_nobody_listens(cluster: Cluster) -> None:
    found = cluster.probe("127.0.0.1:1")
    assert not found.reachable and "127.0.0.1:1" in found.why and found.ca == b""


def test_the_medium_has_a_latency(cluster: Cluster) -> None:
    assert 0 < cluster.fsync_seconds() < 10


def test_the_processor_has_a_speed(cluster: Cluster) -> None:
    assert 0 < cluster.hash_seconds() < 10
