"""A second control plane whose join was interrupted: from the moment on in which its etcd is a member, the cluster has
no majority without it."""

from __future__ import annotations

import pytest

from k8r_agent.cluster import paths
from k8r_agent.ports.cluster import Probe
from k8r_agent.ports.commands import Result
from k8r_agent.steps import duties, membership
from tests.crash.clusters import second
from tests.crash.scenarios import last
from tests.fakes.loaders import PlainLoader
from tests.fakes.world import FakeNode
from tests.unit.test_cluster_entry import run, tried


class Interrupted(BaseException):
    pass


def half_joined() -> FakeNode:
    """A second control plane, whose kubeadm has just ended: etcd has two members now."""
    found = second(PlainLoader)

    def watch(node: FakeNode, name: str) -> None:
        if name == "kubeadm:join:after":
            raise Interrupted

    found.watch = watch
    with pytest.raises(Interrupted):
        run(found)
    found.watch = None
    return found


@pytest.mark.parametrize("cut", [False, True])
def test_a_second_control_plane_that_was_interrupted_gives_the_cluster_its_majority_back(
        cut: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """While this node's etcd is away nobody answers: no other attempt to join could begin."""
    found = half_joined()
    found.shut_down() if cut else found.kill()
    assert not cut or not found.cluster.probe("192.0.2.10:6443").reachable
    done(found)
    assert found.cluster.made == ["join"]
    api = found.cluster.api()
    assert api is not None
    assert "node-role.kubernetes.io/control-plane:NoSchedule" in api.data["nodes"]["node-1"]["marks"]
    known = membership.of(found.world())
    assert known is not None and membership.complete(found.world(), known) and known.control_plane


def done(found: FakeNode) -> None:
    assert tried(found).state.value == "done", last(found).note


@pytest.mark.parametrize("said", [Probe(reachable=False, why="connection refused"), Probe(reachable=True)],
                         ids=["nobody answers", "an API server without a majority answers"])
def test_an_interrupted_member_that_does_not_get_well_is_left_as_it_is_where_no_other_goes_on(
        said: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    found = half_joined()
    found.shut_down()
    with monkeypatch.context() as sick:
        sick.setattr(found.cluster, "etcdctl", lambda args, timeout=60.0: Result(1, "", "unhealthy"))
        sick.setattr(found.cluster, "probe", lambda endpoint: said)
        assert "no majority without this node's etcd" in tried(found).note
    assert found.cluster.made == ["join"] and found.cluster.read(paths.ETCD_POD)
    found.machine.sleep(duties.REST)
    done(found)


@pytest.mark.parametrize("torn", [False, True])
def test_an_interrupted_member_that_does_not_get_well_gives_way_where_the_others_go_on(
        torn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    found = half_joined()
    assert found.cluster.outside is not None
    found.cluster.outside.alone = True  # type: ignore[attr-defined]
    found.cluster.outside.change({**found.cluster.outside.data, "nodes": {}})  # an operator removed it
    found.shut_down()
    if torn:  # what kubeadm wrote for the kubelet never reached the disk
        for root in found.roots.values():
            root.live.pop("var/lib/kubelet/config.yaml")
            root.medium.pop("var/lib/kubelet/config.yaml")
    else:
        monkeypatch.setattr(found.cluster, "etcdctl", lambda args, timeout=60.0: Result(1, "", "unhealthy"))
    done(found)
    assert [words.partition(" ")[0] for words in found.cluster.made] == ["join", "join"]
