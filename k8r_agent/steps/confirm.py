"""The last step of a reinstall: the working slot runs, is healthy, and becomes what the node boots by default."""

from __future__ import annotations

from k8r_agent.errors import Protected
from k8r_agent.model.slots import Slot, SlotState
from k8r_agent.ports.step import World
from k8r_agent.store import condemned


class Confirm:
    """The primary is moved first: only then does the node come back here by itself. What follows is bookkeeping
    that a power cut may leave undone; `confirmed` is remembered after all of it."""

    name = "confirm"
    summary = "Make the new working slot the primary"

    def done(self, world: World) -> bool:
        state = world.boot.state()
        return (world.recall("confirmed") == "yes" and state.primary is Slot.WORKING
                and state.current is Slot.WORKING)

    def apply(self, world: World) -> None:
        status = world.slots.status(Slot.WORKING)
        if world.boot.state().current is not Slot.WORKING:
            raise Protected("the working slot is not confirmed", why="the node does not run from it")
        if status.state is not SlotState.OK or world.txn is None or status.txn != world.txn.id:
            raise Protected("the working slot is not confirmed", why="this transaction did not write it")
        world.boot.set_primary(Slot.WORKING)
        world.boot.disarm()
        world.boot.refill_tries()
        world.slots.raise_floor(status.release)
        condemned.forgive(world.files, status.release)  # whatever it was, it got well here
        world.remember("confirmed", "yes")
