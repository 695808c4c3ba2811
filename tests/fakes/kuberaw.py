"""What an API server answers to a request by path: Nodes, pods, evictions, as far as the way out of a cluster needs
them. Over the data of a FakeApi; tests/fakes/apiserver.py serves the same to a real kubectl.

`pods` of the data: "namespace/name" → {uid, node, owner, phase, mirror, deleting, budget, stuck}. `budgets`: name →
how many pods may still be evicted.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

from k8r_agent.cluster.drain import ANNOTATION
from tests.fakes import kubeapi
from tests.fakes.kubeapi import FakeApi

BUDGET = "Cannot evict pod as it would violate the pod's disruption budget."
TWO_BUDGETS = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
CODES = {404: "NotFound", 409: "Conflict", 429: "TooManyRequests", 403: "Forbidden", 500: "InternalError"}
Reply = tuple[int, dict[str, Any]]


def refusal(code: int, message: str) -> Reply:
    return code, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": CODES[code],
                  "code": code, "message": message}


def respond(api: FakeApi, method: str, path: str, body: bytes) -> Reply:
    url = urlsplit(path)
    words, query = url.path.strip("/").split("/"), parse_qs(url.query)
    if url.path == "/version":
        return 200, {"major": "1", "minor": api.version.split(".")[1], "gitVersion": f"v{api.version}"}
    if words[:2] == ["api", "v1"] and words[-2:] == ["configmaps", "kubeadm-config"]:
        return 200, {"data": {"ClusterConfiguration": api.data.get("kubeadm", "")}}
    if words[:3] == ["api", "v1", "nodes"]:
        return _nodes(api, method, words[3:], body)
    if words == ["api", "v1", "pods"]:
        return _pods(api, query)
    if words[:3] == ["api", "v1", "namespaces"] and words[4] == "pods":
        return _pod(api, method, f"{words[3]}/{words[5]}", words[6:], body)
    return refusal(404, "the server could not find the requested resource")


def _nodes(api: FakeApi, method: str, words: list[str], body: bytes) -> Reply:
    data = api.data
    if not words:
        if data.get("selective"):
            return refusal(403, 'nodes is forbidden: User "system:node:node-1" cannot list resource "nodes"')
        return 200, {"kind": "NodeList", "items": [_node(data, name) for name in sorted(data["nodes"])]}
    name = words[0]
    if name not in data["nodes"]:
        return refusal(404, f'nodes "{name}" not found')
    if method == "PUT":
        given = json.loads(body)
        if given["metadata"].get("resourceVersion") != str(data["version"]):
            return refusal(409, "the object has been modified; please apply your changes to the latest version")
        node = {**data["nodes"][name], "unschedulable": bool(given["spec"].get("unschedulable")),
                "annotations": given["metadata"].get("annotations") or {}}
        api.change({**data, "nodes": {**data["nodes"], name: node}})
    return 200, _node(api.data, name)


def _node(data: dict[str, Any], name: str) -> dict[str, Any]:
    node = data["nodes"][name]
    found = kubeapi.as_json(name, node)
    found["metadata"] |= {"resourceVersion": str(data["version"]), "annotations": node.get("annotations", {})}
    found["spec"] |= {"taints": node.get("taints", [])}
    return found


def _pods(api: FakeApi, query: dict[str, list[str]]) -> Reply:
    node = query.get("fieldSelector", [""])[0].removeprefix("spec.nodeName=")
    pods = api.data.get("pods", {})
    names = [name for name in sorted(pods) if pods[name]["node"] == node]
    start = int(query.get("continue", ["0"])[0])
    page = api.data.get("page", 500)
    found: dict[str, Any] = {"kind": "PodList", "metadata": {},
                             "items": [_as_pod(name, pods[name]) for name in names[start:start + page]]}
    if start + page < len(names):
        found["metadata"]["continue"] = str(start + page)
    return 200, found


def _as_pod(full: str, pod: dict[str, Any]) -> dict[str, Any]:
    namespace, name = full.split("/")
    meta: dict[str, Any] = {"namespace": namespace, "name": name, "uid": pod["uid"]}
    if pod.get("owner"):
        meta["ownerReferences"] = [{"kind": pod["owner"], "name": "owner", "controller": True}]
    if pod.get("mirror"):
        meta["annotations"] = {"kubernetes.io/config.mirror": "hash"}
    if pod.get("deleting"):
        meta["deletionTimestamp"] = "2026-11-21T12:00:00Z"
    return {"metadata": meta, "spec": {"nodeName": pod["node"]}, "status": {"phase": pod.get("phase", "Running")}}


def _pod(api: FakeApi, method: str, full: str, words: list[str], body: bytes) -> Reply:
    pods = api.data.get("pods", {})
    if full not in pods:
        return refusal(404, f'pods "{full}" not found')
    if method == "POST" and words == ["eviction"]:
        return _evict(api, full, json.loads(body))
    if method == "DELETE":
        _leave(api, full)
    return 200, {"kind": "Pod"}


def _evict(api: FakeApi, full: str, body: dict[str, Any]) -> Reply:
    data = api.data
    pod = data["pods"][full]
    if body["deleteOptions"]["preconditions"]["uid"] != pod["uid"]:
        return refusal(409, "the UID in the precondition does not match")
    if pod.get("budgets") == 2:
        return refusal(500, TWO_BUDGETS)
    budget = pod.get("budget", "")
    left = data.get("budgets", {}).get(budget, 1)
    if left < 1:
        return refusal(429, BUDGET)
    if budget:
        api.change({**data, "budgets": {**data["budgets"], budget: left - 1}})
    _leave(api, full)
    return 201, {"kind": "Status", "status": "Success"}


def _leave(api: FakeApi, full: str) -> None:
    """`stuck`: it never ends, for a finalizer or a process that does not."""
    data = api.data
    pods = dict(data["pods"])
    if pods[full].get("stuck"):
        pods[full] = {**pods[full], "deleting": True}
    else:
        del pods[full]
    api.change({**data, "pods": pods})


def run_pod(api: FakeApi, full: str, node: str, *, owner: str = "ReplicaSet", **more: Any) -> None:
    data = api.data
    pod = {"uid": f"uid-of-{full}-{data['version']}", "node": node, "owner": owner, **more}
    api.change({**data, "pods": {**data.get("pods", {}), full: pod}})


def change_node(api: FakeApi, name: str, **values: Any) -> None:
    data = api.data
    api.change({**data, "nodes": {**data["nodes"], name: {**data["nodes"][name], **values}}})


def marked(api: FakeApi, name: str) -> bool:
    return ANNOTATION in api.data["nodes"][name].get("annotations", {})


def as_kubectl(reply: Reply) -> tuple[int, str, str]:
    """Exit code, stdout, stderr: as kubectl was seen to put it."""
    code, body = reply
    if code < 400:
        return 0, json.dumps(body), ""
    return 1, "", f"Error from server ({body['reason']}): {body['message']}\n"
