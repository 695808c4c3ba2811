"""Is the node as well in its cluster as it was before?

What only the node itself can break is required: the kubelet, and on a control-plane node its own API server and etcd.
Whether the Node is Ready is asked only where the API server answers and is well: one that is down or ill for reasons
of its own must not condemn a good release. Nor must a registry that does not give the pod network its container
images, of which a fresh system has none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from k8r_agent.cluster import answer, drain, patience
from k8r_agent.cluster.answer import Kind
from k8r_agent.cluster.api import Api
from k8r_agent.errors import HealthFailed, K8rError
from k8r_agent.model.cluster import Membership
from k8r_agent.ports.cluster import As
from k8r_agent.ports.machine import told
from k8r_agent.ports.step import World
from k8r_agent.steps import etcd_member, membership
from k8r_agent.steps.wait import Wait

BEFORE = "cluster-before"  # fact: names of the checks that were good before the reinstall, space separated
PATIENT = "--request-timeout=20s"  # a packet filter that drops packets would cost minutes
_ILL = (Kind.SERVER, Kind.UNREACHABLE)  # of an API server that can be reached
_NO_NETWORK = "NetworkPluginNotReady"  # the kubelet's word for: no pod network has put its configuration here
_NO_IMAGE = {"ErrImagePull", "ImagePullBackOff", "RegistryUnavailable"}


@dataclass(frozen=True, kw_only=True)
class Found:
    """One check; `outside`: it is bad for a reason that this node cannot have caused. `mends`: and that is likely to
    end soon, so it is waited for as long as for the node itself."""

    name: str
    ok: bool
    detail: str
    outside: bool = False
    mends: bool = False


def observe(world: World) -> tuple[Found, ...]:
    """() on a node that is in no cluster. Takes a second or so."""
    if not world.cluster.present():
        return ()
    found = membership.of(world)
    if found is None or not membership.complete(world, found):
        return ()
    running = world.cluster.kubelet_running()
    checks = [Found(name="kubelet", ok=running, detail="running" if running else "not running, or not healthy")]
    checks += [_api(world), _etcd(world)] if found.control_plane else []
    return (*checks, _node(world, found))


def good(world: World) -> str:
    """Names of what is well now, for the record; `none` when nothing is."""
    return " ".join(check.name for check in observe(world) if check.ok) or "none"


def _api(world: World) -> Found:
    said = world.cluster.kubectl(["get", "--raw", "/readyz", PATIENT], who=As.ADMIN)
    return Found(name="api-server", ok=said.code == 0, detail=_line(said.stdout if said.code == 0 else said.stderr))


def _etcd(world: World) -> Found:
    said = etcd_member.health(world)  # older ones say that all is well on stderr
    return Found(name="etcd", ok=said.code == 0, detail=_line(said.stdout or said.stderr))


def _node(world: World, found: Membership) -> Found:
    said = world.cluster.kubectl(["get", "node", found.node_name, "-o", "json", PATIENT])
    if said.code:
        away = not found.control_plane and not world.cluster.probe(found.endpoint).reachable
        ill = not found.control_plane and not away and answer.read(said).kind in _ILL
        why = f"{found.endpoint} does not answer" if away else _line(said.stderr)
        return Found(name="node-ready", ok=False, detail=why, outside=away or ill, mends=ill)
    ready, why = is_ready(said.stdout, boot=world.machine.boot_id())
    lacks = _lacks_image(world, found.node_name) if not ready and _NO_NETWORK in why else ""
    return Found(name="node-ready", ok=ready, detail=f"{why}; {lacks}" if lacks else why, outside=bool(lacks),
                 mends=bool(lacks))


def _lacks_image(world: World, node: str) -> str:
    """Which of its pods waits for a container image, and what is said of that; "" when none does."""
    found = Api(world.cluster).get(drain.pods_path(node))
    try:
        return next((f"{pod['metadata']['name']}: {waiting['reason']} ({waiting.get('message', '')[:200]})"
                     for pod in found.body["items"] for waiting in _waiting(pod.get("status") or {})
                     if waiting.get("reason") in _NO_IMAGE), "") if found.ok else ""
    except (KeyError, TypeError, AttributeError):
        return ""


def _waiting(status: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for one in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
        yield (one.get("state") or {}).get("waiting") or {}


def is_ready(node: str, *, boot: str) -> tuple[bool, str]:
    """Of a Node as JSON, with the kubelet's reason for not being so. A kubelet that was away is still called Ready for
    a while, and where the only control plane was away with it, until it says otherwise: what it said in another boot
    than `boot` does not count."""
    try:
        status = json.loads(node)["status"]
        if (status.get("nodeInfo", {}).get("bootID") or boot) != boot:
            return False, "what the Node says of itself is of an earlier boot"
        for condition in status["conditions"]:
            if condition["type"] == "Ready":
                return condition["status"] == "True", condition.get("message") or condition.get("reason") or "Ready"
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    return False, "the Node says nothing about being Ready"


def _line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "no answer")[:300]


class ClusterHealth:
    """`limit`: seconds on a good medium. `outside`: how long something that this node cannot mend is waited for."""

    name = "cluster-health"
    summary = "Check the node in its cluster"

    def __init__(self, *, limit: float = patience.NODE, outside: float = 60.0) -> None:
        self._limit, self._outside = limit, outside

    def done(self, world: World) -> bool:
        if not world.cluster.present():
            return True  # no Kubernetes on this node
        found = membership.of(world)
        return not membership.complete(world, found) or world.recall(self.name) == world.machine.boot_id()

    def apply(self, world: World) -> None:
        waiting = Wait(world, self._limit * patience.of(world.cluster))
        while bad := self._missing(world):
            why = told(bad)
            patient = waiting.limit if any(check.mends for check in bad) else self._outside
            if all(check.outside for check in bad) and waiting.waited >= patient:
                world.report.status(f"not held against the new system: {why}")
                break
            if waiting.over:
                raise HealthFailed("the node is not well in its cluster", why=why, hint="journalctl -u kubelet")
            waiting.pause(f"waiting for {why}")
        world.remember(self.name, world.machine.boot_id())

    def _missing(self, world: World) -> tuple[Found, ...]:
        """What was well before and is not now. Without a record of before, the kubelet has to run."""
        before = {"kubelet", *world.recall(BEFORE).split()}
        try:
            return tuple(check for check in observe(world) if not check.ok and check.name in before)
        except K8rError as error:
            return (Found(name="cluster", ok=False, detail=str(error)),)
