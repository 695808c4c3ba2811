"""This node's etcd member, as the steps ask for it."""

from __future__ import annotations

from k8r_agent.errors import ClusterError
from k8r_agent.model import etcd
from k8r_agent.model.etcd import Member, Quorum, StaticPod
from k8r_agent.ports.cluster import MANIFESTS
from k8r_agent.ports.commands import Result
from k8r_agent.ports.step import World

_PATIENCE = 120.0  # seconds for all of one question


def static_pod(world: World) -> StaticPod:
    """Raises ClusterError."""
    try:
        return etcd.static_pod((world.cluster.read(f"{MANIFESTS}/etcd.yaml") or b"").decode("utf-8", "replace"))
    except ValueError as error:
        raise ClusterError("etcd's static pod is not understood", why=str(error),
                           hint=f"/{MANIFESTS}/etcd.yaml is as kubeadm writes it?") from None


def members(world: World) -> tuple[Member, ...]:
    """Raises ClusterError."""
    result = world.cluster.etcdctl(["member", "list", "-w", "json", *etcd.PATIENT], timeout=_PATIENCE)
    try:
        return etcd.members(result.stdout)
    except ValueError:
        raise ClusterError("etcd does not list its members", why=_said(result.stderr),
                           hint="is etcd running? `etcdctl endpoint health`") from None


def health(world: World) -> Result:
    """Exit code 0: this member answers, with the data that it has."""
    return world.cluster.etcdctl(["endpoint", "health", *etcd.PATIENT], timeout=_PATIENCE)


def quorum(world: World) -> Quorum:
    """Whether this member may be away for a while. Raises ClusterError."""
    found, pod = members(world), static_pod(world)
    me = etcd.mine(found, name=pod.name, address=etcd.host(pod.peer_url))
    said = world.cluster.etcdctl(["endpoint", "health", "--cluster", "-w", "json", *etcd.PATIENT], timeout=_PATIENCE)
    try:
        ill = etcd.unhealthy(said.stdout)
    except ValueError:
        raise ClusterError("etcd's health is not known", why=_said(said.stderr)) from None
    return etcd.quorum(found, ill, me)


def _said(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("{")]
    return "; ".join(lines[-2:]) or "it does not answer"
