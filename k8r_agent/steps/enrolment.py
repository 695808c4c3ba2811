"""What the steps that leave a cluster ask first: does this node belong to one, as what, and under which name?"""

from __future__ import annotations

from k8r_agent.cluster import certificate, drain
from k8r_agent.cluster.api import Api
from k8r_agent.cluster.drain import Elsewhere
from k8r_agent.errors import ClusterError
from k8r_agent.ports.cluster import KUBELET, MANIFESTS, PKI, As
from k8r_agent.ports.step import World
from k8r_agent.store import cluster as store

CERTIFICATE = f"{KUBELET}/pki/kubelet-client-current.pem"
_PREFIX = "system:node:"


def enrolled(world: World) -> bool:
    """The running root has a kubelet's credential, whoever gave it."""
    return world.cluster.present() and world.cluster.read(As.NODE.value) is not None


def by_hand(world: World) -> bool:
    """Somebody else brought the running root into a cluster, or made one on it: the agent knows of none."""
    return store.membership(world.files) is None and world.cluster.present() and (
        enrolled(world) or world.cluster.read(f"{PKI}/ca.key") is not None)


def control_plane(world: World) -> bool:
    return world.cluster.present() and world.cluster.read(f"{MANIFESTS}/kube-apiserver.yaml") is not None


def stacked_etcd(world: World) -> bool:
    """An etcd member runs here as a static pod."""
    return world.cluster.present() and world.cluster.read(f"{MANIFESTS}/etcd.yaml") is not None


def node_name(world: World) -> str:
    """As the cluster knows it: from the kubelet's certificate, which is who it is there. Raises ClusterError."""
    known = store.membership(world.files)
    pem = world.cluster.read(CERTIFICATE)
    try:
        name = certificate.read(pem or b"").common_name
    except ValueError:
        name = ""
    found = name.removeprefix(_PREFIX) if name.startswith(_PREFIX) else known.node_name if known else ""
    if not found:
        raise ClusterError("the node's name in the cluster is not known", why=f"/{CERTIFICATE} does not say it")
    return found


def forced(world: World) -> bool:
    return world.arg("force") == "yes"


def who(world: World) -> As:
    """The strongest credential here: on a control-plane node that of its administrator."""
    return As.ADMIN if world.cluster.read(As.ADMIN.value) is not None else As.NODE


def elsewhere(world: World) -> Elsewhere | None:
    """None when this node may not see the others: from Kubernetes 1.32 on, a kubelet sees its own Node only."""
    found = Api(world.cluster, who(world)).get(drain.NODES)
    return drain.elsewhere(found.body, node_name(world)) if found.ok and isinstance(found.body, dict) else None
