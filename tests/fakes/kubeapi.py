"""An API server with what it stores. What it stores is one JSON text, so that it can live where etcd's data lives."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from k8r_agent.ports.commands import Result

OK, NOT_FOUND = 0, 1
_METHODS = {"get": "GET", "create": "POST", "replace": "PUT", "delete": "DELETE"}

CONFIGURATION = """controlPlaneEndpoint: 192.0.2.10:6443
kind: ClusterConfiguration
networking:
  dnsDomain: cluster.local
  podSubnet: 10.244.0.0/16
  serviceSubnet: 10.96.0.0/12
"""


def fresh(cluster: str) -> dict[str, Any]:
    return {"cluster": cluster, "version": 1, "nodes": {}, "objects": {}}


class FakeApi:
    """`load` and `save` are where the data is; `load` gives None when nobody answers. `tokens` are bootstrap tokens
    that are still good."""

    def __init__(self, load: Callable[[], str | None], save: Callable[[str], None], *, ca: bytes,
                 tokens: Sequence[str] = ()) -> None:
        self._load, self._save, self.ca, self.tokens = load, save, ca, set(tokens)
        self.version = "1.31.4"

    @property
    def up(self) -> bool:
        return self._load() is not None

    @property
    def data(self) -> dict[str, Any]:
        text = self._load()
        assert text is not None
        return dict(json.loads(text))

    def change(self, data: dict[str, Any]) -> None:
        self._save(json.dumps({**data, "version": data["version"] + 1}, sort_keys=True))

    def register(self, node: str, *, version: str, ready: bool = True, boot: str = "") -> None:
        """What a kubelet does when it starts: the same name stays the same Node, with its uid. `boot`: the id of the
        boot in which it says so; "" leaves that open."""
        data = self.data
        number = data["version"]
        known = data["nodes"].get(node, {"uid": f"uid-{number}", "unschedulable": False})
        after = {**known, "version": version, "ready": ready, **({"boot": boot} if boot else {})}
        if after != data["nodes"].get(node):
            self.change({**data, "nodes": {**data["nodes"], node: after}})

    # kubectl

    def kubectl(self, args: Sequence[str], stdin: bytes = b"") -> Result:
        """`get node NAME -o json`, `get nodes -o json`, `get pods` (none), `apply -f -`, and by path (kuberaw.py)."""
        words = [word for word in args if not word.startswith("--request-timeout")]
        if words[:3] == ["get", "--raw", "/readyz"]:
            return Result(OK, "ok", "")
        if words[1:2] == ["--raw"]:
            from tests.fakes import kuberaw

            reply = kuberaw.respond(self, _METHODS[words[0]], words[2], stdin)
            return Result(*kuberaw.as_kubectl(reply))
        if words[:2] == ["get", "pods"] and "--selector=component=kube-apiserver" in words:
            image = f"registry.k8s.io/kube-apiserver:v{self.version}"
            return Result(OK, json.dumps({"items": [{"spec": {"containers": [{"image": image}]}}]}), "")
        if words[:3] == ["get", "configmap", "kubeadm-config"]:
            return Result(OK, json.dumps({"data": {"ClusterConfiguration": CONFIGURATION}}), "")
        if words[:2] == ["get", "pods"]:
            return Result(OK, json.dumps({"items": []}), "")
        if words[:2] in (["get", "nodes"], ["get", "node"]):
            return self._get_nodes(words)
        if words[:3] == ["apply", "-f", "-"]:
            data = self.data
            self.change({**data, "objects": {**data["objects"], stdin.decode(): "applied"}})
            return Result(OK, "applied", "")
        if words[:3] in (["label", "--overwrite", "node"], ["taint", "--overwrite", "node"]):
            node = self.data["nodes"][words[3]]
            node = {**node, "marks": sorted({*node.get("marks", ()), *words[4:]})}
            self.change({**self.data, "nodes": {**self.data["nodes"], words[3]: node}})
            return Result(OK, "", "")
        raise AssertionError(f"this API server knows no {words}")

    def _get_nodes(self, words: Sequence[str]) -> Result:
        nodes = self.data["nodes"]
        if words[1] == "nodes":
            return Result(OK, json.dumps({"items": [as_json(name, nodes[name]) for name in sorted(nodes)]}), "")
        if words[2] not in nodes:
            return Result(NOT_FOUND, "", f'Error from server (NotFound): nodes "{words[2]}" not found')
        return Result(OK, json.dumps(as_json(words[2], nodes[words[2]])), "")


def as_json(name: str, node: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "Node", "metadata": {"name": name, "uid": node["uid"]},
            "spec": {"unschedulable": True} if node["unschedulable"] else {},
            "status": {"conditions": [{"type": "Ready", "status": "True" if node["ready"] else "False"}],
                       "nodeInfo": {"kubeletVersion": f"v{node['version']}",
                                    **({"bootID": node["boot"]} if "boot" in node else {})}}}
