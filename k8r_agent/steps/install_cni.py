"""The pod network of a new cluster: without one no Node becomes Ready."""

from __future__ import annotations

from dataclasses import replace

from k8r_agent.cluster import cni, kubeadmconfig
from k8r_agent.errors import ClusterError
from k8r_agent.ports.cluster import As
from k8r_agent.ports.step import World
from k8r_agent.steps import membership
from k8r_agent.store import cluster as store

_MAX = 16 << 20  # bytes of a manifest


class InstallCni:
    """Once in the life of a cluster, by the node that made it: afterwards the network belongs to its owner."""

    name = "install-cni"
    summary = "Install the pod network"

    def done(self, world: World) -> bool:
        found = membership.of(world)
        return (found is None or not found.founder or found.network != ""
                or cni.manifest(world.settings.kubernetes) is None)

    def apply(self, world: World) -> None:
        found, said = membership.of(world), world.settings.kubernetes
        chosen = cni.manifest(said)
        assert found is not None and chosen is not None
        data = (world.cluster.fetch(chosen.source, _MAX) if chosen.remote
                else world.cluster.read(chosen.source.lstrip("/")))
        if data is None:
            raise cni.missing(chosen)
        was = kubeadmconfig.founded(found.configuration)
        manifest = cni.prepared(chosen, data, said=said, pod_cidr=was.pod_cidr)
        answer = world.cluster.kubectl(["apply", "-f", "-"], who=As.ADMIN, stdin=manifest, timeout=300)
        if answer.code:
            raise ClusterError("the pod network was not installed", why=answer.stderr.strip()[-500:])
        store.remember(world.files, replace(found, network=chosen.source))
