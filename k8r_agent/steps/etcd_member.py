"""This node's etcd member, as the steps ask for it."""

from __future__ import annotations

from k8r_agent.errors import ClusterError
from k8r_agent.model import etcd
from k8r_agent.model.etcd import Member, Quorum, StaticPod
from k8r_agent.ports.cluster import MANIFESTS
from k8r_agent.ports.step import World

_PATIENCE = 90.0  # seconds: `endpoint health` waits five for each member that does not answer


def static_pod(world: World) -> StaticPod:
    """Raises ClusterError."""
    try:
        return etcd.static_pod((world.cluster.read(f"{MANIFESTS}/etcd.yaml") or b"").decode("utf-8", "replace"))
    except ValueError as error:
        raise ClusterError("etcd's static pod is not understood", why=str(error),
                           hint=f"/{MANIFESTS}/etcd.yaml is as kubeadm writes it?") from None


def members(world: World) -> tuple[Member, ...]:
    """Raises ClusterError."""
    result = world.cluster.etcdctl(["member", "list", "-w", "json"], timeout=_PATIENCE)
    try:
        return etcd.members(result.stdout)
    except ValueError:
        raise ClusterError("etcd does not list its members", why=_said(result.stderr),
                           hint="is etcd running? `etcdctl endpoint health`") from None


def healthy(world: World) -> bool:
    """This member answers, with the data that it has."""
    return world.cluster.etcdctl(["endpoint", "health"], timeout=_PATIENCE).code == 0


def quorum(world: World) -> Quorum:
    """Whether this member may be away for a while. Raises ClusterError."""
    found, pod = members(world), static_pod(world)
    me = etcd.mine(found, name=pod.name, address=etcd.host(pod.peer_url))
    health = world.cluster.etcdctl(["endpoint", "health", "--cluster", "-w", "json"], timeout=_PATIENCE)
    try:
        ill = etcd.unhealthy(health.stdout)
    except ValueError:
        raise ClusterError("etcd's health is not known", why=_said(health.stderr)) from None
    return etcd.quorum(found, ill, me)


def _said(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("{")]
    return "; ".join(lines[-2:]) or "it does not answer"
