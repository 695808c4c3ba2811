"""confirm: what runs now is what boots from now on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k8r_agent.cli.console import Console
from k8r_agent.cli.parser import add_yes
from k8r_agent.cli.submit import refuse_when_busy
from k8r_agent.errors import BootError, Exit, HealthFailed, Refused
from k8r_agent.model.slots import Slot

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from k8r_agent.cli.node import Node


def arguments(parser: ArgumentParser) -> None:
    add_yes(parser)
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
    if state.primary is state.current and state.armed is None:
        console.say(f"the {state.current} slot is the one that boots already")
        console.result({"primary": str(state.primary), "changed": False})
        return Exit.NOTHING_TO_DO if args.exit_77 else Exit.OK
    bad = [check for check in world.machine.health() if not check.ok]
    if bad:
        raise HealthFailed(f"the {state.current} slot is not healthy",
                           why="; ".join(f"{check.name}: {check.detail}" for check in bad))
    if args.dry_run:
        console.say(f"the {state.current} slot would become the one that boots")
    else:
        _confirm(args, console, node, state.current)
        console.say(f"the {state.current} slot is the one that boots")
    console.result({"primary": str(state.current), "changed": not args.dry_run})
    return Exit.OK


def _confirm(args: Namespace, console: Console, node: Node, slot: Slot) -> None:
    """The image slot as primary means: no working slot until somebody reinstalls. That wants a yes."""
    if slot is Slot.IMAGE and not args.yes:
        raise Refused("the image slot is not made the primary", hint="add --yes if that is what you want",
                      why="it is read-only: the node would come up without its working system at every boot")
    with node.lock.hold(f"confirm (pid {node.pid})"):
        node.world.boot.disarm()
        node.world.boot.set_primary(slot)
        if slot is Slot.WORKING:
            node.world.boot.refill_tries()
