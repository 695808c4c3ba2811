"""fresh-working: a first boot writes the working slot, and nobody was asked. So there must be nothing on it.

That the node knows nothing of a working slot (a lost status, a boot partition that was copied anew) says nothing about
what is on it.
"""

from __future__ import annotations

from k8r_agent.errors import Refused
from k8r_agent.model.layout import WORKING
from k8r_agent.model.slots import Slot, SlotState
from k8r_agent.ports.step import World

FRESH = "fresh-disk"  # fact of make-state: the table write of this first boot made the working slot


class FreshWorking:
    name = "fresh-working"
    summary = "See that nothing is on the working slot that somebody may want"

    def done(self, world: World) -> bool:
        return world.recall(self.name) == "yes"

    def apply(self, world: World) -> None:
        """Raises Refused."""
        if not _fresh(world):
            partition = world.disks.own().partition(WORKING)
            found = world.disks.signature(partition) if partition else ""
            if found:
                raise Refused("the working slot is not written by a first boot", why=f"it carries {found}, and this "
                              "first boot did not make it",
                              hint="`k8r-agent reboot --slot working`, and there `k8r-agent confirm`, keep it. If "
                                   "nothing on it is wanted: `k8r-agent reinstall`, or `k8r-agent update` first")
        world.remember(self.name, "yes")


def _fresh(world: World) -> bool:
    """Made by this table write, or written by a first boot that never came to its end, or half written: all three are
    known because something says so."""
    status = world.slots.status(Slot.WORKING)
    never_confirmed = status.state is SlotState.OK and world.slots.release_floor() == 0 and not status.by_hand
    return world.recall(FRESH) == "yes" or status.state is SlotState.PENDING or never_confirmed
