"""A bundle is held against the versions that run in the node's cluster before a byte is written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from k8r_agent.cluster import versions
from k8r_agent.cluster.version import parse
from k8r_agent.errors import CommandFailed, Incompatible
from k8r_agent.model.cluster import CONTROL_PLANE, WORKER, Membership, Phase
from k8r_agent.model.slots import Slot, SlotState
from k8r_agent.ports.cluster import MANIFESTS, As
from k8r_agent.ports.commands import Result
from k8r_agent.steps import skew
from k8r_agent.steps.check_bundle import CheckBundle, CheckPreviousBundle, CheckRescueBundle
from k8r_agent.store import cluster as store
from tests.fakes.cluster import FakeCluster
from tests.fakes.slotbench import Node

STATIC_POD = """\
apiVersion: v1
kind: Pod
metadata:
  annotations:
    kubeadm.kubernetes.io/kube-apiserver.advertise-address.endpoint: 192.0.2.11:6443
spec:
  containers:
  - command:
    - kube-apiserver
    image: registry.k8s.io/kube-apiserver:v1.31.4
    imagePullPolicy: IfNotPresent
"""


class Asked(FakeCluster):
    """Answers what `answers` says to a credential and the first words of a question; None: nobody answers."""

    answers: dict[tuple[As, str], str | None]

    def kubectl(self, args: Sequence[str], *, who: As = As.NODE, stdin: bytes = b"", timeout: float = 60.0) -> Result:
        assert args[-1].startswith("--request-timeout=")
        found = self.answers.get((who, " ".join(args[:2])))
        if found is None:
            raise CommandFailed("kubectl took too long")
        return Result(0, found, "")


def pods(*tags: str) -> str:
    return json.dumps({"kind": "List", "items": [
        {"metadata": {"name": f"kube-apiserver-cp{number}"},
         "spec": {"containers": [{"image": f"registry.k8s.io:443/kube-apiserver:{tag}"}]}}
        for number, tag in enumerate(tags)]})


def nodes(**kubelets: str) -> str:
    return json.dumps({"kind": "List", "items": [
        {"metadata": {"name": name}, "status": {"nodeInfo": {"kubeletVersion": version}}}
        for name, version in kubelets.items()]})


VERSION = '{"major": "1", "minor": "31+", "gitVersion": "v1.31.4", "platform": "linux/arm64"}'
RAW, PODS, NODES = "get --raw", "get pods", "get nodes"


Answers = dict[tuple[As, str], str | None]


def member(role: str, answers: Answers, *, kubernetes: str = "1.31.4") -> Node:
    node = Node()
    node.world.cluster = cluster = Asked(files=node.files)
    cluster.answers = answers
    if role == CONTROL_PLANE:
        cluster.root.write(f"{MANIFESTS}/kube-apiserver.yaml", STATIC_POD.encode())
    store.remember(node.files, Membership(phase=Phase.MEMBER, role=role, node_name="node-1", kubernetes=kubernetes))
    return node


def offer(node: Node, kubernetes: str, **changes: Any) -> None:
    node.bundle = node.bundles.add(replace(node.bundle, manifest=replace(
        node.bundle.manifest, kubernetes=kubernetes, **changes)))


MASTER: Answers = {(As.ADMIN, PODS): pods("v1.31.4", "v1.31.4"),
          (As.ADMIN, NODES): nodes(**{"node-1": "v1.20.0", "node-2": "v1.29.1"})}
SERVANT: Answers = {(As.NODE, RAW): VERSION}


@pytest.mark.parametrize(("role", "answers", "image", "rule"), [
    (WORKER, SERVANT, "1.31.9", ""), (WORKER, SERVANT, "1.32.0", "kubelet-newer"),
    (WORKER, SERVANT, "1.27.0", "kubelet-too-old"), (WORKER, SERVANT, "", "no-kubernetes"),
    (WORKER, {}, "1.36.0", ""),
    (CONTROL_PLANE, MASTER, "1.32.0", ""), (CONTROL_PLANE, MASTER, "1.33.0", "minor-skipped"),
    (CONTROL_PLANE, {**MASTER, (As.ADMIN, NODES): nodes(n="v1.28.0")}, "1.32.0", "kubelet-too-old"),
    (CONTROL_PLANE, MASTER, "1.31.3", "patch-downgrade"), (CONTROL_PLANE, {}, "1.33.0", "minor-skipped"),
    (CONTROL_PLANE, {}, "1.30.0", "etcd-storage"), (CONTROL_PLANE, {}, "1.32.0", ""),
])
def test_an_update_that_breaks_a_rule_is_refused_and_nothing_is_written(
        role: str, answers: dict[tuple[As, str], str | None], image: str, rule: str) -> None:
    node = member(role, answers)
    offer(node, image)
    before = node.slot(Slot.IMAGE)
    if not rule:
        node.update()
        return
    with pytest.raises(Incompatible) as caught:
        CheckBundle().apply(node.world)
    assert f"[{rule}]" in caught.value.why and caught.value.hint
    assert node.slot(Slot.IMAGE) == before and not CheckBundle().done(node.world)
    assert node.world.slots.status(Slot.IMAGE).state is SlotState.UNKNOWN


@pytest.mark.parametrize(("role", "image", "refused"), [
    (CONTROL_PLANE, "1.32.0", True), (CONTROL_PLANE, "1.31.9", False), (WORKER, "1.32.0", False)])
def test_a_rescue_takes_no_image_that_could_not_bring_a_control_plane_back(role: str, image: str,
                                                                           refused: bool) -> None:
    """The old system, which alone can upgrade it, is what it writes over."""
    node = member(role, {})
    node.boot.now = replace(node.boot.now, current=Slot.IMAGE, primary=Slot.IMAGE)
    offer(node, image)
    if not refused:
        return node.run(CheckRescueBundle())
    with pytest.raises(Incompatible, match="not written with this image"):
        CheckRescueBundle().apply(node.world)


def test_a_node_outside_of_a_cluster_takes_any_image() -> None:
    node = Node()
    offer(node, "1.99.0")
    node.update()
    entering = member(WORKER, SERVANT)
    store.remember(entering.files, Membership(phase=Phase.ENTERING, role=WORKER))
    assert skew.running(entering.world) is None


def test_an_image_without_a_manifest_does_not_say_what_it_holds() -> None:
    node = member(WORKER, SERVANT)
    node.bundle = node.bundles.add(replace(node.bundle, raw_manifest=b""))
    skew.check(node.world, node.bundle)


def test_a_rollback_goes_back_by_a_patch_and_not_by_more() -> None:
    for image, refused in (("1.31.2", False), ("1.30.2", True)):
        node = member(CONTROL_PLANE, MASTER)
        offer(node, image, release=1)
        node.world.slots.keep(1, {"manifest.toml": node.bundle.raw_manifest, "source": b"/bundle"})
        node.begin("t2", release="1")
        if not refused:
            node.run(CheckPreviousBundle())
            continue
        with pytest.raises(Incompatible, match="does not suit"):
            CheckPreviousBundle().apply(node.world)


def test_the_image_slot_has_nobody_to_ask_and_still_knows_what_was() -> None:
    node = member(CONTROL_PLANE, {})
    node.world.cluster = FakeCluster(version="", files=node.files)
    found = skew.running(node.world)
    assert found is not None and found.own == found.etcd == parse("1.31.4") and found.apiservers == ()


@pytest.mark.parametrize("junk", ["", "ok", "[]", '{"items": 5}', '{"items": [5, {}]}', '{"gitVersion": "latest"}'])
def test_junk_is_no_version(junk: str) -> None:
    assert versions.of_server(junk) == versions.of_nodes(junk, without="") == versions.of_apiservers(junk) == ()
    assert versions.of_static_pod(junk.encode()) is None


@pytest.mark.parametrize("image", [
    "image: registry.k8s.io/kube-apiserver:v1.31.4", "image: 'mirror:5000/a/kube-apiserver-amd64:v1.31.4'",
    'image: "k8s.gcr.io/kube-apiserver:v1.31.4@sha256:aa"'])
def test_the_version_of_a_static_pod(image: str) -> None:
    assert versions.of_static_pod(f"  - {image}\n".encode()) == parse("1.31.4")
