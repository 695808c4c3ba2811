"""The pod network of a new cluster: without one no Node becomes Ready."""

from __future__ import annotations

from dataclasses import replace

from k8r_agent.cluster import cni, kubeadmconfig, patience
from k8r_agent.cluster.api import Api
from k8r_agent.cluster.cni import Manifest
from k8r_agent.errors import ClusterError, FetchError, Unreachable
from k8r_agent.ports.cluster import As
from k8r_agent.ports.step import World
from k8r_agent.steps import membership
from k8r_agent.steps.entry import AGAIN
from k8r_agent.steps.wait import Wait
from k8r_agent.store import cluster as store

_MAX = 16 << 20  # bytes of a manifest


class InstallCni:
    """Once in the life of a cluster, by the node that made it: afterwards the network belongs to its owner. After a
    power cut the control plane comes up beside the agent. `limit`: seconds that it gets, on a good medium and
    processor."""

    name = "install-cni"
    summary = "Install the pod network"

    def __init__(self, *, limit: float = patience.NODE) -> None:
        self._limit = limit

    def done(self, world: World) -> bool:
        found = membership.of(world)
        return (found is None or not found.founder or found.network != ""
                or cni.manifest(world.settings.kubernetes) is None)

    def apply(self, world: World) -> None:
        found, said = membership.of(world), world.settings.kubernetes
        chosen = cni.manifest(said)
        assert found is not None and chosen is not None
        store.owe_network(world.files)
        try:
            data = _read(world, chosen)
            self._wait(world)
        except (FetchError, Unreachable):
            world.remember(AGAIN, "yes")
            raise
        was = kubeadmconfig.founded(found.configuration)
        manifest = cni.prepared(chosen, data, said=said, pod_cidr=was.pod_cidr)
        answer = world.cluster.kubectl(["apply", "-f", "-"], who=As.ADMIN, stdin=manifest, timeout=300)
        if answer.code:
            raise ClusterError("the pod network was not installed", why=answer.stderr.strip()[-500:])
        store.remember(world.files, replace(found, network=chosen.source))
        store.owe_network(world.files, owed=False)

    def _wait(self, world: World) -> None:
        waiting = Wait(world, self._limit * patience.of(world.cluster))
        api = Api(world.cluster, As.ADMIN)
        while not (said := api.get("/readyz")).ok:
            if waiting.over:
                raise Unreachable("the control plane does not answer", why=said.text, hint="journalctl -u kubelet")
            waiting.pause(f"waiting for the control plane: {said.text}")


def _read(world: World, chosen: Manifest) -> bytes:
    """Raises FetchError."""
    if chosen.remote:
        return world.cluster.fetch(chosen.source, _MAX)
    data = world.cluster.read(chosen.source.lstrip("/"))
    if data is None:
        raise cni.missing(chosen)
    return data
