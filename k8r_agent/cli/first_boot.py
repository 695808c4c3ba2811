"""first-boot: set up a freshly flashed disk. The runner starts it by itself; this verb tries it again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k8r_agent.cli.console import Console
from k8r_agent.cli.parser import add_run_options
from k8r_agent.cli.submit import submit
from k8r_agent.errors import Protected
from k8r_agent.model.slots import Slot

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from k8r_agent.cli.node import Node


def arguments(parser: ArgumentParser) -> None:
    add_run_options(parser)


def run(args: Namespace, console: Console, node: Node) -> int:
    """Raises Protected outside the image slot: a working system is what first boot makes."""
    node.require_root("first-boot")
    current = node.boot_state().current
    if current is not Slot.IMAGE and not args.dry_run:
        raise Protected("the disk is not set up", why=f"the node runs from {current or 'another system'}: first boot "
                        "happens in the image slot of a freshly flashed disk")
    return submit("first-boot", {}, args, console, node)
