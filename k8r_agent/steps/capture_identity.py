"""Before the working slot is given up: what makes the node itself is on the state partition, and how well it was."""

from __future__ import annotations

from k8r_agent.errors import NoState, StepFailed
from k8r_agent.ports.step import World
from k8r_agent.steps import cluster_health, membership

BEFORE = "health-before"  # fact: names of the checks that were good before the reinstall, space separated


class CaptureIdentity:
    """Done in the image slot as well, where only the copy is left: the running system there was made from it."""

    name = "capture-identity"
    summary = "Keep host keys, users, network and settings"

    def done(self, world: World) -> bool:
        return world.recall(BEFORE) != "" and world.identity.captured() and membership.followed(world)

    def apply(self, world: World) -> None:
        if not world.files.persistent():
            raise NoState("the node's identity cannot be kept", why="there is no state partition")
        world.identity.capture()
        if not world.identity.captured():
            raise StepFailed("the node's identity was not kept", why="it changes all the time, or cannot be read back")
        membership.follow(world)
        world.remember(cluster_health.BEFORE, cluster_health.good(world))
        world.remember(BEFORE, " ".join(check.name for check in world.machine.health() if check.ok) or "none")
