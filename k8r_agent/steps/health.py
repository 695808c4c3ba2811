"""Is the slot that was booted good enough to go on?

What was bad before the reinstall already, for a reason outside of the node (a pulled cable, a dead DHCP server), does
not condemn the new system: it is reported and tolerated. What only the node itself can break is required always.
"""

from __future__ import annotations

from k8r_agent.errors import HealthFailed, NoState, Refused
from k8r_agent.model.slots import Slot
from k8r_agent.ports.machine import Check, told
from k8r_agent.ports.step import World
from k8r_agent.steps.capture_identity import BEFORE
from k8r_agent.steps.wait import Wait

OUTSIDE = frozenset({"network"})


class _Healthy:
    """`limit`: seconds that a starting system gets until everything has to be well. Counts for one boot only."""

    name: str
    slot: Slot

    def __init__(self, *, limit: float = 240.0) -> None:
        self._limit = limit

    def done(self, world: World) -> bool:
        return (world.boot.state().current is self.slot
                and world.recall(self.name) == world.machine.boot_id())

    def apply(self, world: World) -> None:
        if world.boot.state().current is not self.slot:
            raise Refused(f"the {self.slot} slot cannot be checked", why="the node does not run from it")
        if not world.files.persistent():
            raise NoState(f"the {self.slot} slot is not well", why="it does not see the state partition")
        self._check_release(world)
        self._wait(world)
        world.remember(self.name, world.machine.boot_id())

    def _check_release(self, world: World) -> None:
        """Waiting does not help against the wrong system."""
        wanted, running = world.slots.status(self.slot).release, world.machine.running_release()
        if wanted and running and wanted != running:
            raise HealthFailed(f"the {self.slot} slot runs the wrong system",
                               why=f"release {running}, but release {wanted} was written")

    def _wait(self, world: World) -> None:
        waiting = Wait(world, self._limit)
        while bad := missing(world):
            why = told(bad)
            if waiting.over:
                raise HealthFailed(f"the {self.slot} slot is not well", why=why, hint="k8r-recovery(7)")
            waiting.pause(f"waiting for {why}")


def missing(world: World) -> tuple[Check, ...]:
    """Checks that are bad and must not be. Without a record of before (first boot) nothing outside is required."""
    before = world.recall(BEFORE).split()
    return tuple(check for check in world.machine.health()
                 if not check.ok and (check.name not in OUTSIDE or check.name in before))


class SelfCheck(_Healthy):
    """The last moment the old system exists: it is given up only for an image slot that works on this machine."""

    name = "self-check"
    summary = "Check the image slot on this machine"
    slot = Slot.IMAGE


class HealthCheck(_Healthy):
    name = "health-check"
    summary = "Check the new working slot"
    slot = Slot.WORKING
