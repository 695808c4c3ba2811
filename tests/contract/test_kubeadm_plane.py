"""What a control plane that comes back over kept state relies on, seen with a real one: kubeadm's files, etcd and an
API server as processes on this host, stopped and started on a fresh root with what a state partition keeps."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from k8r_agent.cluster import certificate, kubeadmconfig, marks
from k8r_agent.cluster.version import parse
from k8r_agent.config.settings import KubernetesSettings
from tests.contract.test_kubeadm import HERE, KEPT, PHASES
from tests.lab.kubernetes import STAND_IN, VERSION
from tests.lab.kubernetes.plane import ADDRESS, Plane
from tests.lab.network import Network

pytestmark = [pytest.mark.root, pytest.mark.kube, pytest.mark.node, pytest.mark.slow]
NODE = replace(HERE, ip=ADDRESS)


PROBE = "import sys; from k8r_agent.effects.kubeapi import probe; sys.stdout.write(probe(sys.argv[1]).ca.decode())"


@dataclass
class Seen:
    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)
    upgraded: dict[str, Any] = field(default_factory=dict)
    join_command: str = ""
    token: dict[str, Any] = field(default_factory=dict)
    refused: str = ""
    published: str = ""
    worker: str = ""
    cordoned: bool = False
    marked: dict[str, Any] = field(default_factory=dict)


def configuration(version: str) -> str:
    said, number = KubernetesSettings(), parse(version)
    return kubeadmconfig.initialise(said, kubeadm=number, control_plane=number, machine=NODE,
                                    was=kubeadmconfig.founding(said, endpoint=f"{ADDRESS}:6443"))


def note(plane: Plane) -> dict[str, Any]:
    story, system = plane.get("configmap", "story"), plane.get("namespace", "kube-system")
    return {"data": story["data"], "uid": story["metadata"]["uid"], "cluster": system["metadata"]["uid"],
            # Of the list as the server gives it: kubectl's own lists have none.
            "resourceVersion": int(json.loads(plane.kubectl("get", "--raw=/api/v1/configmaps"))["metadata"]
                                   ["resourceVersion"]),
            "node": plane.get("node", NODE.name)["metadata"]["uid"],
            "ca": certificate.read((plane.root / "etc/kubernetes/pki/ca.crt").read_bytes()).public_key,
            "version": plane.kubectl("version", "--short")}


def made(root: Path, network: Network, version: str) -> Plane:
    plane = Plane(root, network, version=version)
    for phase in PHASES:
        plane.kubeadm("init", "phase", *phase, config=configuration(version))
    return plane.start()


def reinstalled(old: Plane, root: Path, version: str) -> Plane:
    """A fresh root with etcd's data and what a control-plane node keeps of its files."""
    for name in KEPT:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(old.root / name, root / name)
    (root / "var/lib").mkdir(parents=True)
    (old.root / "var/lib/etcd").rename(root / "var/lib/etcd")
    return made(root, old.network, version)


def live(plane: Plane, seen: Seen) -> None:
    """What a first control plane gets: its records, a node, a way to join, an object of somebody's."""
    plane.kubeadm("init", "phase", "upload-config", "kubeadm", config=configuration(plane.version))
    plane.kubeadm("init", "phase", "bootstrap-token", config=configuration(plane.version))
    plane.kubectl("create", "-f", str(_node(plane.root)))
    plane.kubectl("create", "configmap", "story", "--from-literal=told=once")
    seen.join_command = plane.kubeadm("token", "create", "--ttl=1h", "--print-join-command",
                                      "--kubeconfig=/etc/kubernetes/admin.conf")
    mark(plane, seen)
    seen.published = plane.inside(sys.executable, "-c", PROBE, f"{ADDRESS}:6443")
    shutil.copyfile(plane.root / "etc/kubernetes/kubelet.conf", plane.root.parent / "kubelet.conf")
    make_token(plane, seen)


def mark(plane: Plane, seen: Seen) -> None:
    """As for a control plane whose join was interrupted at its end."""
    for args in marks.commands(NODE.name, parse(plane.version), None):
        plane.kubectl(*args)
    seen.marked = plane.get("node", NODE.name)


def make_token(plane: Plane, seen: Seen) -> None:
    """As docs/kubernetes.md says, and with no right but that."""
    there = ("-n", "kube-system")
    plane.kubectl(*there, "create", "role", "k8r-token", "--verb=create", "--resource=secrets")
    plane.kubectl(*there, "create", "rolebinding", "k8r-token", "--role=k8r-token", "--user=k8r-token")
    said = plane.kubectl(*there, "get", "configmap", "kubeadm-config", "-o", "jsonpath={.data.ClusterConfiguration}")
    kubeconfig = plane.kubeadm("alpha", "kubeconfig", "user", "--client-name=k8r-token", config=said)
    (plane.root / "etc/kubernetes/token.conf").write_text(kubeconfig)
    made = plane.kubeadm("token", "create", "--ttl=1h", "--kubeconfig=/etc/kubernetes/token.conf").strip()
    seen.token = plane.get(*there, "secret", f"bootstrap-token-{made.partition('.')[0]}")
    with pytest.raises(RuntimeError) as refused:
        plane.kubectl(*there, "get", "secrets", who="token")
    seen.refused = str(refused.value)


def _node(root: Path) -> Path:
    path = root / "node.yaml"
    path.write_text(f"apiVersion: v1\nkind: Node\nmetadata:\n  name: {NODE.name}\n")
    return path


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    top, found, planes = tmp_path_factory.mktemp("plane"), Seen(), []
    network = Network(top / "network").start()
    try:
        planes.append(made(top / "one", network, VERSION))
        live(planes[0], found)
        found.before = note(planes[0])
        planes[0].stop()
        planes.append(reinstalled(planes[0], top / "two", VERSION))
        found.after = note(planes[1])
        # The credential that a worker kept through all of this, made by the control plane that is gone.
        shutil.copyfile(top / "kubelet.conf", planes[1].root / "etc/kubernetes/kept.conf")
        found.worker = planes[1].kubectl("get", "node", NODE.name, "-o", "name", who="kept")
        planes[1].kubectl("cordon", NODE.name, who="kept")
        found.cordoned = planes[1].get("node", NODE.name)["spec"].get("unschedulable", False)
        planes[1].stop()
        planes.append(reinstalled(planes[1], top / "three", STAND_IN))
        found.upgraded = note(planes[2])
        yield found
    finally:
        for plane in planes:
            plane.stop()
        network.stop()


SAME = ("data", "uid", "cluster", "node", "ca")


def test_a_control_plane_on_a_fresh_root_is_the_same_cluster(seen: Seen) -> None:
    assert {key: seen.after[key] for key in SAME} == {key: seen.before[key] for key in SAME}
    assert seen.after["data"] == {"told": "once"}
    assert seen.after["resourceVersion"] >= seen.before["resourceVersion"]


def test_what_a_node_kept_is_good_there_and_may_cordon_its_own_node(seen: Seen) -> None:
    assert seen.worker.strip() == f"node/{NODE.name}" and seen.cordoned


def test_the_next_version_starts_on_the_same_data(seen: Seen) -> None:
    """The stand-in: the same program under the next number. Holds the order of things, not a conversion of data."""
    assert {key: seen.upgraded[key] for key in SAME} == {key: seen.before[key] for key in SAME}
    assert f"Server Version: v{STAND_IN}" in seen.upgraded["version"]


def test_a_node_can_be_marked_as_kubeadm_would(seen: Seen) -> None:
    labels, taints = seen.marked["metadata"]["labels"], seen.marked["spec"]["taints"]
    assert {"node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"} <= set(labels)
    assert {"key": "node-role.kubernetes.io/master", "effect": "NoSchedule"} in taints


def test_a_worker_may_make_itself_a_token_with_the_right_to_create_secrets_alone(seen: Seen) -> None:
    assert seen.token["type"] == "bootstrap.kubernetes.io/token"
    assert {"usage-bootstrap-authentication", "usage-bootstrap-signing", "expiration"} <= set(seen.token["data"])
    assert "forbidden" in seen.refused


def test_what_a_worker_is_told_names_the_authority_that_the_agent_computes(seen: Seen) -> None:
    words = seen.join_command.split()
    assert words[words.index("--discovery-token-ca-cert-hash") + 1] == seen.before["ca"]
    assert words[2] == f"{ADDRESS}:6443"


def test_a_node_without_a_credential_sees_whose_cluster_it_is(seen: Seen) -> None:
    assert certificate.ca_hashes(seen.published.encode()) == (seen.before["ca"],)
