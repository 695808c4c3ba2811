"""What update and rollback do while the image slot runs for want of a working one: they write that one instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from k8r_agent.cli import losses, render
from k8r_agent.cli.console import Console
from k8r_agent.cli.reinstall import consent
from k8r_agent.cli.submit import refuse_when_busy, submit
from k8r_agent.model.slots import Slot

if TYPE_CHECKING:
    from argparse import Namespace

    from k8r_agent.cli.node import Node


def needed(node: Node) -> bool:
    """Raises BootError when the boot loader cannot be asked."""
    return node.facts() is not None and node.boot_state().without_working


def run(request: Mapping[str, str], args: Namespace, console: Console, node: Node) -> int:
    """`request` as for update or rollback; a `release` says that it is the one before."""
    if args.dry_run:
        return submit("rescue", request, args, console, node)
    refuse_when_busy(node)
    from k8r_agent.steps import by_hand

    by_hand.refuse(node.rehearsal("rescue", request))
    consent(args, console, announcement(node, request["source"], request.get("release", "")),
            "Write the working slot?")
    return submit("rescue", request, args, console, node)


def announcement(node: Node, source: str, release: str) -> list[str]:
    present = node.slots.status(Slot.WORKING)
    what = f"release {release} from {source}" if release else f"what {source} holds"
    return [f"The node runs from the image slot, so the working slot is written first, with {what}.",
            "When that is well and boots by default, the image slot gets the same.", "",
            f"Lost: everything on the working slot ({render.release(present.release, present.version)}).", "",
            "Kept:", *(f"  {kept}" for kept in losses.KEPT), "", "The machine reboots once."]
