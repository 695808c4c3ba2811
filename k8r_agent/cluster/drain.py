"""Who has to leave a node before it is reinstalled, and how that is asked for. Pure: API objects in, decisions out.

Not all that `kubectl drain` does is right here. The node comes back under the same name, so what no controller would
start elsewhere is left where it is: it goes down with the node and the kubelet starts it again, while an eviction
would delete it for good. And a kubelet's credential may not read DaemonSets, so the kind of the owner decides.
"""

from __future__ import annotations

import copy
import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

ANNOTATION = "k8r-agent/cordoned-by"  # on the Node: the transaction that cordoned it
_MIRROR = "kubernetes.io/config.mirror"
_KEEPS_OFF = ("NoSchedule", "NoExecute")
NODES = "/api/v1/nodes"


class Way(enum.Enum):
    EVICT = "evict"
    WAIT = "wait"  # it is going already
    LEAVE = "leave"


@dataclass(frozen=True, kw_only=True)
class Pod:
    """`why` explains LEAVE. `scratch`: it has emptyDir volumes, whose content is lost with the node."""

    namespace: str
    name: str
    uid: str
    way: Way
    why: str = ""
    scratch: bool = False

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def pods(listing: Mapping[str, Any]) -> tuple[Pod, ...]:
    """Of a PodList."""
    return tuple(_pod(item) for item in _items(listing))


def _pod(item: Mapping[str, Any]) -> Pod:
    meta = item.get("metadata") or {}
    way, why = _way(meta, (item.get("status") or {}).get("phase", ""))
    volumes = (item.get("spec") or {}).get("volumes") or ()
    return Pod(namespace=str(meta.get("namespace", "")), name=str(meta.get("name", "")), uid=str(meta.get("uid", "")),
               way=way, why=why, scratch=any("emptyDir" in volume for volume in volumes))


def _way(meta: Mapping[str, Any], phase: str) -> tuple[Way, str]:
    owner = next((str(o.get("kind", "")) for o in meta.get("ownerReferences") or () if o.get("controller")), "")
    if _MIRROR in (meta.get("annotations") or {}):
        return Way.LEAVE, "static"
    if owner == "DaemonSet":
        return Way.LEAVE, "of a DaemonSet"
    if phase in ("Succeeded", "Failed"):
        return Way.LEAVE, "finished"
    if meta.get("deletionTimestamp"):
        return Way.WAIT, ""
    if not owner:
        return Way.LEAVE, "without a controller: it comes back with the node"
    return Way.EVICT, ""


def leaving(found: Iterable[Pod]) -> tuple[Pod, ...]:
    """Those that must be gone before the node may go down."""
    return tuple(pod for pod in found if pod.way is not Way.LEAVE)


def more(listing: Mapping[str, Any]) -> str:
    """The token of the next page, "" for the last."""
    return str((listing.get("metadata") or {}).get("continue") or "")


# somewhere to go


@dataclass(frozen=True, kw_only=True)
class Elsewhere:
    """Other nodes that take pods, and what keeps the rest from it."""

    ready: tuple[str, ...]
    closed: tuple[str, ...]  # "name: why"

    @property
    def alone(self) -> bool:
        return not self.ready and not self.closed


def elsewhere(listing: Mapping[str, Any], me: str) -> Elsewhere:
    """Of a NodeList. Taints are taken to keep everybody off: pods that tolerate them are the few."""
    ready, closed = [], []
    for item in _items(listing):
        name = str((item.get("metadata") or {}).get("name", ""))
        if name == me:
            continue
        why = _closed(item)
        if why:
            closed.append(f"{name}: {why}")
        else:
            ready.append(name)
    return Elsewhere(ready=tuple(ready), closed=tuple(closed))


def _closed(node: Mapping[str, Any]) -> str:
    spec = node.get("spec") or {}
    if not is_ready(node):
        return "not Ready"
    if spec.get("unschedulable"):
        return "cordoned"
    taint = next((t for t in spec.get("taints") or () if t.get("effect") in _KEEPS_OFF), None)
    return f"taint {taint.get('key')}" if taint else ""


def is_ready(node: Mapping[str, Any]) -> bool:
    conditions = (node.get("status") or {}).get("conditions") or ()
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)


# the Node object


def cordoned(node: Mapping[str, Any]) -> bool:
    return bool((node.get("spec") or {}).get("unschedulable"))


def cordoned_by_us(node: Mapping[str, Any]) -> bool:
    return cordoned(node) and ANNOTATION in ((node.get("metadata") or {}).get("annotations") or {})


def cordon(node: Mapping[str, Any], txn: str) -> dict[str, Any]:
    """To be written back with its resourceVersion, so that nobody's change in between is overwritten."""
    changed: dict[str, Any] = copy.deepcopy(dict(node))
    changed.setdefault("spec", {})["unschedulable"] = True
    meta = changed.setdefault("metadata", {})
    meta["annotations"] = {**(meta.get("annotations") or {}), ANNOTATION: txn}
    return changed


def uncordon(node: Mapping[str, Any]) -> dict[str, Any]:
    changed: dict[str, Any] = copy.deepcopy(dict(node))
    changed.get("spec", {}).pop("unschedulable", None)
    (changed["metadata"].get("annotations") or {}).pop(ANNOTATION, None)
    return changed


# requests


def node_path(name: str) -> str:
    return f"{NODES}/{name}"


def pods_path(node: str, page: str = "") -> str:
    token = f"&continue={page}" if page else ""
    return f"/api/v1/pods?fieldSelector=spec.nodeName%3D{node}&limit=500{token}"


def pod_path(pod: Pod) -> str:
    return f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}"


def eviction(pod: Pod, minor: int) -> dict[str, Any]:
    """Body of a POST to the pod's `eviction`. `minor` of the API server: policy/v1 came with 1.22. The uid keeps a
    pod that was made anew under the same name (StatefulSet) from being evicted again and again."""
    return {"apiVersion": "policy/v1" if minor >= 22 else "policy/v1beta1", "kind": "Eviction",
            "metadata": {"name": pod.name, "namespace": pod.namespace},
            "deleteOptions": {"preconditions": {"uid": pod.uid}}}


def _items(listing: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    items = listing.get("items")
    return tuple(item for item in items if isinstance(item, dict)) if isinstance(items, list) else ()
