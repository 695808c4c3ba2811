"""Versions of what runs, read from what Kubernetes and its files say. A version that cannot be read is left out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from k8r_agent.cluster.version import Version, parse
from k8r_agent.errors import ClusterError

_IMAGE = re.compile(r"image:\s*[\"']?\S*/kube-apiserver(?:-[a-z0-9]+)?:(v\d+\.\d+\.\d+[^\s\"'@]*)")


def one(text: str) -> Version | None:
    """None for "" and for what is no version."""
    try:
        return parse(text)
    except ClusterError:
        return None


def of_static_pod(manifest: bytes) -> Version | None:
    """Of a kube-apiserver.yaml, by the tag of its container image."""
    match = _IMAGE.search(manifest.decode("utf-8", "replace"))
    return one(match[1]) if match else None


def of_server(answer: str) -> tuple[Version, ...]:
    """Of `/version` of an API server."""
    found = _loads(answer).get("gitVersion")
    return _known([str(found)] if found else [])


def of_nodes(answer: str, *, without: str) -> tuple[Version, ...]:
    """Kubelets of a NodeList, but of the one node."""
    return _known(str(node.get("status", {}).get("nodeInfo", {}).get("kubeletVersion", ""))
                  for node in _items(answer) if node.get("metadata", {}).get("name") != without)


def of_apiservers(answer: str) -> tuple[Version, ...]:
    """API servers of a PodList, by the tags of their container images."""
    return _known(str(container.get("image", "")).rpartition(":")[2]
                  for pod in _items(answer) for container in pod.get("spec", {}).get("containers", ())
                  if "kube-apiserver" in str(container.get("image", "")))


def _known(texts: Iterable[str]) -> tuple[Version, ...]:
    return tuple(version for version in map(one, texts) if version is not None)


def _items(answer: str) -> Iterator[Mapping[str, Any]]:
    items = _loads(answer).get("items")
    yield from (item for item in items if isinstance(item, dict)) if isinstance(items, list) else ()


def _loads(answer: str) -> Mapping[str, Any]:
    try:
        found = json.loads(answer)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
