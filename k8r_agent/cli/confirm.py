"""confirm: what runs now is what boots from now on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from k8r_agent.cli.console import Console
from k8r_agent.cli.parser import add_yes
from k8r_agent.cli.submit import LENT, refuse_when_busy, requested_by
from k8r_agent.errors import BootError, Exit, HealthFailed, NoState, Refused
from k8r_agent.model.slots import Slot, SlotState
from k8r_agent.model.txn import Event
from k8r_agent.ports.machine import told

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from k8r_agent.cli.node import Node
    from k8r_agent.ports.machine import Check
    from k8r_agent.ports.step import World


def arguments(parser: ArgumentParser) -> None:
    add_yes(parser)
    parser.add_argument("--force", action="store_true",
                        help="also when the working slot is not well: the checks that fail now are put up with until "
                             "it is written again")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, change nothing")
    parser.add_argument("--exit-77", action="store_true", help="exit 77 instead of 0 when there is nothing to do")


def run(args: Namespace, console: Console, node: Node) -> int:
    node.require_root("confirm")
    node.settings()
    refuse_when_busy(node)
    world = node.world
    state = world.boot.state()
    if state.current is None:
        raise BootError("nothing can be confirmed", why="this system was not booted from one of the node's slots")
    bad = _bad(world, state.current)
    if state.primary is state.current and state.armed is None and not (bad and args.force):
        console.say(f"the {state.current} slot is the one that boots already")
        console.result({"primary": str(state.primary), "changed": False})
        return Exit.NOTHING_TO_DO if args.exit_77 else Exit.OK
    if bad:
        _may_be_kept(args, world, state.current, bad)
    if args.dry_run:
        console.say(f"the {state.current} slot would become the one that boots")
    else:
        _confirm(args, node, state.current, bad)
        console.say(f"the {state.current} slot is the one that boots")
    console.result({"primary": str(state.current), "changed": not args.dry_run,
                    "accepted": [check.name for check in bad]})
    return Exit.OK


def _bad(world: World, slot: Slot) -> list[Check]:
    accepted = world.slots.status(slot).accepted
    return [check for check in world.machine.health() if not check.ok and check.name not in accepted]


def _may_be_kept(args: Namespace, world: World, slot: Slot, bad: list[Check]) -> None:
    """Raises HealthFailed unless an operator insists; Refused and NoState where that would not help."""
    why = told(bad)
    if not args.force:
        raise HealthFailed(f"the {slot} slot is not healthy", why=why, hint=
                           "k8r-agent confirm --force keeps it as it is" if slot is Slot.WORKING else "")
    if slot is not Slot.WORKING:
        raise Refused(f"the {slot} slot is not made the primary", why=why,
                      hint="only the working slot can be kept although it is not well")
    if not world.files.persistent():
        raise NoState("this cannot be remembered", why="there is no state partition", hint="k8r-recovery(7)")


def _confirm(args: Namespace, node: Node, slot: Slot, bad: list[Check]) -> None:
    """The image slot as primary means: no working slot until somebody reinstalls. That wants a yes. What is put up
    with is durable first: a boot that does not pass for complete would use up the tries of the new primary."""
    if slot is Slot.IMAGE and not args.yes:
        raise Refused("the image slot is not made the primary", hint="add --yes if that is what you want",
                      why="it is read-only: the node would come up without its working system at every boot")
    world = node.world
    with node.lock.hold(f"confirm (pid {node.pid})", wait=LENT):
        status = world.slots.status(slot)
        if bad:
            names = (*status.accepted, *(check.name for check in bad))
            world.slots.set_status(slot, replace(status, accepted=names))
        world.boot.disarm()
        world.boot.set_primary(slot)
        if slot is Slot.WORKING:
            world.boot.refill_tries()
            world.slots.raise_floor(status.release if status.state is SlotState.OK else 0)
        _remember(node, slot, bad)


def _remember(node: Node, slot: Slot, bad: list[Check]) -> None:
    machine = node.world.machine
    despite = f" although it is not well ({told(bad)})" if bad else ""
    node.events.append(Event(time=machine.now(), txn="", task="", step="", kind="note", slot=str(slot),
                             message=f"{requested_by()} confirmed the {slot} slot{despite}",
                             boot_id=machine.boot_id()))
