"""Nodes with Kubernetes to crash, and what each must end as."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from k8r_agent.cluster.certificate import ca_hashes
from k8r_agent.config.settings import KubernetesSettings, NodeSettings
from k8r_agent.engine import Outcome
from k8r_agent.model.cluster import Phase
from k8r_agent.steps import membership
from tests.crash.explorer import Judge
from tests.crash.scenarios import MakeLoader, asked, judge, last
from tests.fakes import certificates
from tests.fakes.cluster import FakeCluster, Outside
from tests.fakes.world import Behaviour, FakeNode

TOKEN = "abcdef.0123456789abcdef"
FOUNDER = KubernetesSettings(initialise=True, cni="none")
JOINER = KubernetesSettings(endpoint="192.0.2.10:6443", join_token=TOKEN, ca_cert_hashes=ca_hashes(certificates.CA))

NETWORK = "https://example.org/network.yaml"

TOML = b'# ours\n[kubernetes]\njoin_token = "' + TOKEN.encode() + b'"  # for today\n[node]\nhostname = "node-1"\n'


def founder(loader: MakeLoader) -> FakeNode:
    """Flashed, never booted; may make a cluster."""
    return FakeNode(loader, kubernetes=FOUNDER, cluster=FakeCluster())


def networker(loader: MakeLoader) -> FakeNode:
    """A founder that also makes the pod network. Its API server comes up long after the agent."""
    manifest = b"kind: DaemonSet\n"
    said = KubernetesSettings(initialise=True, cni_manifest=NETWORK, cni_sha256=hashlib.sha256(manifest).hexdigest())
    node = FakeNode(loader, kubernetes=said, cluster=FakeCluster())
    node.cluster.web, node.cluster.api_slow = {NETWORK: manifest}, 120.0
    return node


def joiner(loader: MakeLoader, outside: Outside | None = None) -> FakeNode:
    """Flashed, never booted; was told of a cluster."""
    node = FakeNode(loader, kubernetes=JOINER, cluster=FakeCluster(outside=outside or Outside()))
    with node.loader.files.writable():
        node.loader.files.put("k8r.toml", TOML)
    return node


def second(loader: MakeLoader) -> FakeNode:
    """To be the second control plane of a cluster, whose first has no majority alone from then on."""
    node = joiner(loader)
    node.settings = replace(node.settings, node=NodeSettings(role="control-plane"),
                            kubernetes=replace(JOINER, certificate_key="0" * 64))
    return node


def inside(node: FakeNode) -> FakeNode:
    """A node of a cluster, shut down."""
    rested(node)
    assert last(node).task == "join" and last(node).note == "", last(node).note
    node.shut_down()
    return node


def rested(node: FakeNode) -> None:
    node.power_on()
    while node.session() is Outcome.REBOOTING:
        node.shut_down()
        node.power_on()


def updated(node: FakeNode, behaviour: Behaviour | None = None) -> FakeNode:
    """A node of a cluster with release 2 in its image slot, shut down."""
    asked(inside(node), "update", source="release-2").session()
    node.shut_down()
    node.behaviour = behaviour or node.behaviour
    return node


def judge_member(verdict: Judge) -> Judge:
    """As `verdict`, and the node is back in its cluster as the same Node."""

    def look(node: FakeNode, crashes: int) -> str:
        how, found = verdict(node, crashes), membership.of(node.world())
        assert found is not None and found.phase is Phase.MEMBER, found
        assert membership.complete(node.world(), found), "this root is no complete member"
        assert node.cluster.kubelet, "the kubelet does not run"
        toml = node.loader.files.read("k8r.toml")
        assert toml is None or (toml.startswith(b"# ours\n[kubernetes]\njoin_token = ") and toml.endswith(
            b'[node]\nhostname = "node-1"\n') and TOKEN.encode() not in toml), toml
        assert (toml is None) is found.founder, "k8r.toml is gone"
        node.machine.sleep(node.cluster.api_slow)
        api = node.cluster.api()
        assert api is not None, "its own API server does not answer"
        assert bool(api.data["objects"]) is (NETWORK in node.cluster.web), "the pod network is not as it was asked for"
        assert {name: n["ready"] for name, n in api.data["nodes"].items()} == {"node-1": True}
        if not found.control_plane or api.data["nodes"]["node-1"]["uid"] == "uid-1":
            return how
        raise AssertionError("it is another Node of the same name")

    return look


def done(task: str, release: int) -> Judge:
    return judge_member(judge(task=task, done=release, patience=2))
