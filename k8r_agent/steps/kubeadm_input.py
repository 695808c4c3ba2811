"""What kubeadm is told: the settings, the membership and this machine, put together for cluster/kubeadmconfig.py."""

from __future__ import annotations

import json

from k8r_agent.cluster import kubeadmconfig, patience, version
from k8r_agent.cluster.kubeadmconfig import API_PORT, Machine
from k8r_agent.errors import ClusterError
from k8r_agent.model.cluster import JoinSecret, Membership
from k8r_agent.ports.cluster import As
from k8r_agent.ports.step import World


def own_endpoint(ip: str) -> str:
    """Where a control plane of one node answers."""
    return f"[{ip}]:{API_PORT}" if ":" in ip else f"{ip}:{API_PORT}"


def founding(world: World, ip: str) -> str:
    """What the cluster that is made now will be for ever, for the record."""
    return kubeadmconfig.founding(world.settings.kubernetes, endpoint=own_endpoint(ip),
                                  slow=patience.of(world.cluster)).to_json()


def initialise(world: World, found: Membership) -> str:
    """For `kubeadm init`: a new cluster, or the one whose founding is recorded. Raises ClusterError."""
    return kubeadmconfig.initialise(
        world.settings.kubernetes, kubeadm=version.parse(world.cluster.tools().kubeadm),
        control_plane=version.parse(found.kubernetes), was=kubeadmconfig.founded(found.configuration),
        machine=_machine(world, found))


def join(world: World, found: Membership, secret: JoinSecret) -> str:
    """Raises ClusterError."""
    return kubeadmconfig.join(
        world.settings.kubernetes, kubeadm=version.parse(world.cluster.tools().kubeadm), secret=secret,
        control_plane=found.control_plane, machine=_machine(world, found))


def founded_elsewhere(world: World) -> str:
    """What the cluster that this control-plane node has just joined was made with, as kubeadm keeps it there
    (ConfigMap kubeadm-config). Raises ClusterError."""
    asked = ["get", "configmap", "kubeadm-config", "--namespace=kube-system", "--output=json"]
    said = world.cluster.kubectl(asked, who=As.ADMIN)
    try:
        text = json.loads(said.stdout)["data"]["ClusterConfiguration"]
    except (ValueError, KeyError, TypeError):
        raise ClusterError("how the cluster was made cannot be read", why=said.stderr.strip()[-300:]) from None
    return kubeadmconfig.founded_by(text).to_json()


def _machine(world: World, found: Membership) -> Machine:
    return Machine(name=found.node_name, ip=found.node_ip, slow=patience.of(world.cluster))
