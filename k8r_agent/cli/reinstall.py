"""reinstall: the one verb that takes something away. Says what, asks, and only then submits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k8r_agent.cli import losses, plan, render
from k8r_agent.cli.console import Console
from k8r_agent.cli.parser import add_run_options, add_yes
from k8r_agent.cli.submit import refuse_when_busy, submit
from k8r_agent.errors import K8rError, Refused, UsageError
from k8r_agent.model.slots import Slot, SlotStatus
from k8r_agent.model.units import format_size

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from k8r_agent.cli.node import Node
    from k8r_agent.cluster.proof import Line


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--force", action="store_true",
                        help="also where the node might not come back into its cluster, or a release in quarantine")
    add_yes(parser)
    add_run_options(parser)


def run(args: Namespace, console: Console, node: Node) -> int:
    node.require_root("reinstall")
    lost = measure(node)
    request = {"force": "yes"} if args.force else {}
    if args.dry_run:
        console.say(*announcement(lost, node.slots.status(Slot.WORKING), node.slots.status(Slot.IMAGE)), "")
        lines = node.proof()
        console.say(*proved(lines, console))
        return plan.show("reinstall", request, console, node, proof=lines)
    node.settings()
    refuse_when_busy(node)
    refusals = node.reinstall_refusals(force=args.force)
    if refusals:
        raise refusals[0]
    text = announcement(lost, node.slots.status(Slot.WORKING), node.slots.status(Slot.IMAGE))
    consent(args, console, text, "Reinstall this node?")
    return submit("reinstall", request, args, console, node)


def proved(lines: tuple[Line, ...], console: Console) -> list[str]:
    """The proof, one line each; [] for a node that is in no cluster."""
    if not lines:
        return []
    rows = [("  " + (console.paint("ok", "green") if line.ok else console.paint("NO", "red")), line.name, line.text +
             (f" ({line.hint})" if line.hint and not line.ok else "")) for line in lines]
    return ["Can the node come back into its cluster?", *render.table(rows), ""]


def consent(args: Namespace, console: Console, text: list[str], question: str) -> None:
    """Raises UsageError where nobody can be asked, Refused when the answer is no."""
    if not args.json:
        console.note(*text)
    if args.yes:
        return
    if not console.interactive:
        raise UsageError("this needs a yes, and there is no terminal to ask at", hint="add --yes")
    if not console.ask(question):
        raise Refused("nothing was changed", why="the answer was not yes")


def measure(node: Node) -> tuple[losses.Loss, ...] | None:
    """None when the working slot is not the running one: nothing of it can be seen."""
    try:
        facts = node.facts()
    except K8rError:
        return None
    return losses.measure(node.root) if facts and facts.slot is Slot.WORKING else None


def announcement(lost: tuple[losses.Loss, ...] | None, working: SlotStatus, image: SlotStatus) -> list[str]:
    lines = [f"The working slot ({render.release(working.release, working.version)}) is rewritten with "
             f"{render.release(image.release, image.version)}.", "", *lost_lines(lost)]
    lines += ["", "Kept:", *(f"  {what}" for what in losses.KEPT), "",
              "The machine reboots twice, under your SSH session too. The node goes on by itself; afterwards,",
              "`k8r-agent status` and `k8r-agent events` tell how it went."]
    return lines


def lost_lines(lost: tuple[losses.Loss, ...] | None) -> list[str]:
    head = "Lost, with everything else on the working slot:"
    if lost is None:
        return [head, "  what it holds cannot be seen from here: the node does not run from it"]
    rows = [(f"  {loss.what}", ("" if loss.complete else "at least ") + format_size(loss.size), ", ".join(loss.paths))
            for loss in lost]
    return [head, *(render.table(rows) or ["  nothing of note was found"])]
