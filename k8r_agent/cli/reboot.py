"""reboot: not in the middle of something, and into the other slot when asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k8r_agent.cli.console import Console
from k8r_agent.cli.submit import LENT, refuse_when_busy
from k8r_agent.errors import Exit, Refused
from k8r_agent.model.slots import Slot, SlotState

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from k8r_agent.cli.node import Node


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--slot", choices=[str(slot) for slot in Slot], metavar="SLOT",
                        help="boot this slot once: image or working")
    parser.add_argument("--dry-run", action="store_true", help="say what would boot, change nothing")


def run(args: Namespace, console: Console, node: Node) -> int:
    node.require_root("reboot")
    refuse_when_busy(node)
    world = node.world
    state = world.boot.state()
    target = Slot(args.slot) if args.slot else state.armed or state.primary
    if args.slot and world.slots.status(target).state is SlotState.PENDING:
        raise Refused(f"the {target} slot is not booted", why="it is half written")
    if args.slot and world.boot.assets(target) is None:
        unseen = " --kernel FILE --initrd FILE" if target is Slot.WORKING and state.current is not target else ""
        raise Refused(f"the {target} slot is not booted", why="its kernel or initrd is missing or damaged",
                      hint=f"k8r-agent slot install-assets {target}{unseen}")
    once = "" if target is state.primary else ", once"
    if args.dry_run:
        console.say(f"the node would boot the {target} slot{once}")
    else:
        console.say(f"rebooting into the {target} slot{once}")
        with node.lock.hold(f"reboot (pid {node.pid})", wait=LENT):
            if args.slot and target is state.primary:
                world.boot.disarm()
            elif args.slot:
                world.boot.try_once(target)
            world.machine.reboot()
    console.result({"slot": str(target), "once": bool(once), "rebooting": not args.dry_run})
    return Exit.OK
