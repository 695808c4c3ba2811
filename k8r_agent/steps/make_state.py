"""make-state: a place that survives every reinstall."""

from __future__ import annotations

from k8r_agent.ports.step import World
from k8r_agent.steps.fresh_working import FRESH


class MakeState:
    name = "make-state"
    summary = "Initialise the state partition, or take over the one that is there"

    def done(self, world: World) -> bool:
        return world.state.mounted() and bool(world.state.marker())

    def apply(self, world: World) -> None:
        """Raises Refused for a state partition of another life of the disk, NoState for one that was initialised and
        cannot be read now."""
        if world.txn is not None and world.state.fresh():
            world.remember(FRESH, "yes")  # before what says so is gone; the journal moves along
        world.state.initialise()
