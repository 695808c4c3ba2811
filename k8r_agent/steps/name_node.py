"""name-node: before its first cluster a node gets a name that no other node of the same image has."""

from __future__ import annotations

from k8r_agent.cluster import hostname
from k8r_agent.errors import StepFailed
from k8r_agent.ports.step import World
from k8r_agent.steps import membership


class NameNode:
    """Never again once the node has been in a cluster: there it goes by its name, whatever its address is later."""

    name = "name-node"
    summary = "Name the node after its address, unless it has a name"

    def done(self, world: World) -> bool:
        return membership.of(world) is not None or _wanted(world) in ("", world.cluster.name())

    def apply(self, world: World) -> None:
        name = _wanted(world)
        world.report.status(f"naming the node {name}")
        world.machine.rename(name)
        if world.cluster.name() != name:
            raise StepFailed(f"the node could not be named {name}", why=f"it is still {world.cluster.name()}",
                             hint="set node.hostname in k8r.toml and reboot")
        world.identity.capture()


def _wanted(world: World) -> str:
    """"" without an address: whoever needs one says so better."""
    return hostname.choose(setting=world.settings.node.hostname, current=world.cluster.name(),
                           address=world.settings.kubernetes.node_ip or world.cluster.address())
