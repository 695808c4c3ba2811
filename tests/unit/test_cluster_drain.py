"""Who leaves, who stays, and what is asked of the API server. On objects of a cluster of 1.31, cut down."""

from __future__ import annotations

from typing import Any

import pytest

from k8r_agent.cluster import answer, drain
from k8r_agent.cluster.answer import Kind
from k8r_agent.cluster.drain import Way
from k8r_agent.ports.commands import Result


def pod(name: str, *, owner: str = "", phase: str = "Running", **meta: Any) -> dict[str, Any]:
    owners = [{"apiVersion": "apps/v1", "kind": owner, "name": "x", "controller": True}] if owner else []
    return {"metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}", "ownerReferences": owners,
                         **meta}, "spec": {"nodeName": "a"}, "status": {"phase": phase}}


LISTING = {"kind": "PodList", "metadata": {"resourceVersion": "1071"}, "items": [
    pod("web-5d4f", owner="ReplicaSet"),
    pod("db-0", owner="StatefulSet"),
    pod("kube-proxy-x", owner="DaemonSet"),
    pod("etcd-a", owner="Node", annotations={"kubernetes.io/config.mirror": "b1946ac9"}),
    pod("job-1", owner="Job", phase="Succeeded"),
    pod("bare"),
    pod("going", owner="ReplicaSet", deletionTimestamp="2026-11-21T12:00:00Z"),
]}


def test_only_what_a_controller_starts_elsewhere_is_evicted() -> None:
    ways = {found.name: found.way for found in drain.pods(LISTING)}
    assert {name for name, way in ways.items() if way is Way.EVICT} == {"web-5d4f", "db-0"}
    assert {name for name, way in ways.items() if way is Way.WAIT} == {"going"}
    assert {found.name for found in drain.leaving(drain.pods(LISTING))} == {"web-5d4f", "db-0", "going"}


def test_each_pod_that_stays_says_why() -> None:
    why = {found.name: found.why for found in drain.pods(LISTING) if found.way is Way.LEAVE}
    assert why == {"kube-proxy-x": "of a DaemonSet", "etcd-a": "static", "job-1": "finished",
                   "bare": "without a controller: it comes back with the node"}


def test_an_owner_that_is_no_controller_is_none() -> None:
    lonely = pod("x", ownerReferences=[{"kind": "ConfigMap", "name": "y"}])
    assert drain.pods({"items": [lonely]})[0].way is Way.LEAVE


@pytest.mark.parametrize("listing", [{}, {"items": None}, {"items": [1, "x"]}, {"items": [{}]}])
def test_a_listing_that_makes_no_sense_evicts_nobody(listing: dict[str, Any]) -> None:
    assert drain.leaving(drain.pods(listing)) == ()


def test_pages_are_followed() -> None:
    assert drain.more({"metadata": {"continue": "abc"}}) == "abc" and drain.more({"metadata": {}}) == ""
    assert drain.pods_path("a", "abc").endswith("spec.nodeName%3Da&limit=500&continue=abc")


def test_an_eviction_names_the_pod_that_was_seen() -> None:
    found = drain.pods(LISTING)[0]
    assert drain.eviction(found, 21)["apiVersion"] == "policy/v1beta1"
    assert drain.eviction(found, 22) == {
        "apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "web-5d4f", "namespace": "default"},
        "deleteOptions": {"preconditions": {"uid": "uid-web-5d4f"}}}
    assert drain.pod_path(found) == "/api/v1/namespaces/default/pods/web-5d4f"


def node(name: str, *, ready: str = "True", **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "annotations": {"note": "kept"}}, "spec": spec,
            "status": {"conditions": [{"type": "Ready", "status": ready}]}}


def test_nodes_that_take_pods() -> None:
    found = drain.elsewhere({"items": [
        node("a"), node("b"), node("c", ready="Unknown"), node("d", unschedulable=True),
        node("e", taints=[{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]),
        node("f", taints=[{"key": "x", "effect": "PreferNoSchedule"}])]}, "a")
    assert found.ready == ("b", "f") and not found.alone
    assert found.closed == ("c: not Ready", "d: cordoned", "e: taint node-role.kubernetes.io/control-plane")
    assert drain.elsewhere({"items": [node("a")]}, "a").alone


def test_a_cordon_is_undone_to_the_letter() -> None:
    before = node("a", podCIDR="172.30.0.0/24")
    after = drain.cordon(before, "t1")
    assert not drain.cordoned(before) and drain.cordoned(after) and drain.cordoned_by_us(after)
    assert drain.uncordon(after) == before


def test_an_administrators_cordon_is_not_ours() -> None:
    assert drain.cordoned(node("a", unschedulable=True)) and not drain.cordoned_by_us(node("a", unschedulable=True))


# what kubectl says; tests/contract/test_cluster_kubectl.py holds these against a real one


@pytest.mark.parametrize(("said", "kind"), [
    ("Error from server (NotFound): pods \"x\" not found", Kind.NOT_FOUND),
    ("Error from server (TooManyRequests): Cannot evict pod as it would violate", Kind.BLOCKED),
    ("Error from server (InternalError): This pod has more than one PodDisruptionBudget", Kind.SERVER),
    ("Error from server: This pod has more than one PodDisruptionBudget", Kind.SERVER),
    ("Error from server (Forbidden): nodes is forbidden", Kind.FORBIDDEN),
    ("Error from server (ServiceUnavailable): the server is currently unable", Kind.UNREACHABLE),
    ("error: You must be logged in to the server (Unauthorized)", Kind.STRANGER),
    ("The connection to the server 127.0.0.1:1 was refused - did you specify the right host or port?",
     Kind.UNREACHABLE),
    ("Unable to connect to the server: dial tcp: lookup cp on 1.1.1.1:53: no such host", Kind.UNREACHABLE),
    ("Unable to connect to the server: x509: certificate signed by unknown authority", Kind.DISTRUST),
    ("Unable to connect to the server: net/http: TLS handshake timeout", Kind.UNREACHABLE),
    ("error: stat /etc/kubernetes/kubelet.conf: no such file or directory", Kind.STRANGER),
    ("something new", Kind.OTHER),
])
def test_what_kubectl_complains_of(said: str, kind: Kind) -> None:
    found = answer.read(Result(1, "", said + "\n"))
    assert found.kind is kind and found.text and not found.ok


def test_what_kubectl_brings() -> None:
    assert answer.read(Result(0, '{"kind": "Node"}', "")).body == {"kind": "Node"}
    assert answer.read(Result(0, "ok", "")).body == {}
