"""rollback: back to the release before. What that means depends on how far the newer one got."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k8r_agent.cli import losses, render, rescue
from k8r_agent.cli.console import Console
from k8r_agent.cli.parser import add_run_options, add_yes
from k8r_agent.cli.reinstall import consent, lost_lines, measure
from k8r_agent.cli.submit import refuse_when_busy, submit
from k8r_agent.cli.update import resolve
from k8r_agent.errors import NothingToDo
from k8r_agent.model.slots import Slot
from k8r_agent.store.slots import before

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from k8r_agent.cli.node import Node


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("source", nargs="?", metavar="DIR|URL",
                        help="the older bundle; without it, where the kept manifest came from")
    parser.add_argument("--force", action="store_true",
                        help="also where the node might not come back into its cluster")
    add_yes(parser)
    add_run_options(parser)


def run(args: Namespace, console: Console, node: Node) -> int:
    node.require_root("rollback")
    node.settings()
    release, source = previous(node, args.source)
    request = {"release": str(release), "source": source, **({"force": "yes"} if args.force else {})}
    if rescue.needed(node):
        return rescue.run(request, args, console, node)
    if args.dry_run:
        return submit("rollback", request, args, console, node)
    refuse_when_busy(node)
    consent(args, console, announcement(node, release, source), "Roll this node back?")
    return submit("rollback", request, args, console, node)


def previous(node: Node, given: str | None) -> tuple[int, str]:
    """The kept release that is not the working one, and where its bundle was. Raises NothingToDo."""
    working = node.slots.status(Slot.WORKING).release or node.world.machine.running_release()
    kept = node.slots.kept_releases()
    release = before(node.slots, working)
    if not release:
        raise NothingToDo("there is no release to go back to", why=f"the working slot has release {working or '?'}; "
                          f"kept manifests: {', '.join(map(str, kept)) or 'none'}")
    if given:
        return release, resolve(given, "")
    raw = node.slots.kept(release, "source") or b""
    return release, resolve(None, raw.decode(errors="replace").strip())


def announcement(node: Node, release: int | str, source: str) -> list[str]:
    return [f"Release {release} from {source} is written into the image slot, then the working slot "
            f"({_working(node)}) is rewritten with it.", "", *lost_lines(measure(node)), "",
            "Kept:", *(f"  {what}" for what in losses.KEPT), "", "The machine reboots twice."]


def _working(node: Node) -> str:
    status = node.slots.status(Slot.WORKING)
    return render.release(status.release, status.version)
