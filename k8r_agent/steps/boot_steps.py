"""Steps that move the boot pointer or wait for a boot.

A boot is observed, never assumed: it has happened when this node runs from the slot in a boot other than the one
that armed it. The arming boot's id is remembered before the arming.
"""

from __future__ import annotations

from k8r_agent.errors import BootError, NoState, Protected, Refused
from k8r_agent.model.slots import Slot, SlotState
from k8r_agent.ports.step import RebootRequested, World

POINT_OF_NO_RETURN = "set-primary-image"


class Disarm:
    name = "disarm"
    summary = "Forget a boot that was armed earlier"

    def done(self, world: World) -> bool:
        return world.boot.state().armed is None

    def apply(self, world: World) -> None:
        world.boot.disarm()


class _Boot:
    """Arm one boot of `slot` and ask for the reboot. `boot_id:<step>` is the boot that armed, `armed:<step>` says
    that the arming came through."""

    name: str
    slot: Slot

    def done(self, world: World) -> bool:
        return world.boot.state().current is self.slot and self._rebooted(world)

    def apply(self, world: World) -> None:
        self._assert_allowed(world)
        if not world.files.persistent():
            raise NoState("this node cannot reboot by itself", why="there is no state partition to count attempts on")
        state, boot_id = world.boot.state(), world.machine.boot_id()
        if state.current is state.primary:
            # This boot is given up on purpose, maybe before anybody could call it good. The tries that it and the way
            # back cost must not run out, or the way back would end in the very slot that does not come up.
            world.boot.refill_tries()
        world.remember(f"boot_id:{self.name}", boot_id)
        world.boot.try_once(self.slot)
        world.remember(f"armed:{self.name}", boot_id)
        raise RebootRequested(f"into the {self.slot} slot")

    def explain(self, world: World) -> str:
        """Why a boot that was asked for did not lead to `slot`."""
        state, armed = world.boot.state(), world.recall(f"armed:{self.name}")
        if not armed:
            return f"the node went down before a boot of the {self.slot} slot was armed"
        if armed == world.machine.boot_id():
            return f"the {self.slot} slot is armed, but the node has not rebooted"
        if state.armed is self.slot:
            return f"the node rebooted, but the boot loader did not take up the armed {self.slot} slot"
        return f"the {self.slot} slot did not come up; the node fell back to {state.current or 'another system'}"

    def _rebooted(self, world: World) -> bool:
        raise NotImplementedError

    def _assert_allowed(self, world: World) -> None:
        raise NotImplementedError


class BootImage(_Boot):
    """Done as well when the transaction was started in the image slot: there is nothing to arm then."""

    name = "boot-image"
    summary = "Boot the image slot once"
    slot = Slot.IMAGE

    def _rebooted(self, world: World) -> bool:
        return world.recall(f"boot_id:{self.name}") != world.machine.boot_id()

    def _assert_allowed(self, world: World) -> None:
        if world.slots.status(Slot.IMAGE).state is not SlotState.OK:
            raise Protected("the image slot is not booted", why="its content is not complete",
                            hint="run `k8r-agent update` first")
        if world.boot.assets(Slot.IMAGE) is None:
            raise Protected("the image slot is not booted", why="its kernel or initrd is missing or damaged",
                            hint="run `k8r-agent slot install-assets image`")


class BootWorking(_Boot):
    name = "boot-working"
    summary = "Boot the new working slot once"
    slot = Slot.WORKING

    def _rebooted(self, world: World) -> bool:
        return world.recall(f"boot_id:{self.name}") not in ("", world.machine.boot_id())

    def _assert_allowed(self, world: World) -> None:
        status = world.slots.status(Slot.WORKING)
        if status.state is not SlotState.OK or world.txn is None or status.txn != world.txn.id:
            raise Protected("the working slot is not booted", why="this transaction has not written it")
        if world.boot.assets(Slot.WORKING) is None:
            raise Protected("the working slot is not booted", why="its kernel or initrd is missing or damaged")


class SetPrimaryImage:
    """The last moment the old system exists is just before this: from here on the node returns to the image slot."""

    name = POINT_OF_NO_RETURN
    summary = "Make the image slot the one the node returns to"

    def done(self, world: World) -> bool:
        return world.boot.state().primary is Slot.IMAGE

    def apply(self, world: World) -> None:
        if world.boot.state().current is not Slot.IMAGE:
            raise Refused("the image slot does not become the primary", why="the node does not run from it")
        world.boot.set_primary(Slot.IMAGE)
        if world.boot.state().primary is not Slot.IMAGE:
            raise BootError("the image slot did not become the primary", why="the boot loader's files say otherwise")


class HoldImage:
    """After a failure past the point of no return: the slot that is known to run and that explains what happened
    stays the primary. Nothing to do before that point, where the new working slot runs or was confirmed, or where the
    old working slot is still whole: then the node goes back to it."""

    name = "hold-image"
    summary = "Stay in the image slot after a failure"

    def done(self, world: World) -> bool:
        state = world.boot.state()
        attempted = world.txn is not None and world.txn.tries.get(POINT_OF_NO_RETURN, 0) > 0
        return (not attempted or state.current is not Slot.IMAGE or state.primary is Slot.IMAGE or self._old(world)
                or world.recall("confirmed") == "yes")  # boots lost since then are no fault of it

    @staticmethod
    def _old(world: World) -> bool:
        """Writing marks the slot with its transaction before the first byte."""
        status = world.slots.status(Slot.WORKING)
        return status.state is SlotState.OK and world.txn is not None and status.txn != world.txn.id

    def apply(self, world: World) -> None:
        world.boot.set_primary(Slot.IMAGE)
