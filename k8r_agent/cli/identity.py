"""identity capture, apply: what makes the node itself, between the running system and the state partition."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from k8r_agent.cli.console import Console
from k8r_agent.errors import Exit

if TYPE_CHECKING:
    from k8r_agent.cli.node import Node


def run_capture(args: Namespace, console: Console, node: Node) -> int:
    node.require_root("identity capture")
    node.world.identity.capture()
    console.say("the node's identity is on the state partition")
    console.result({"captured": True})
    return Exit.OK


def run_apply(args: Namespace, console: Console, node: Node) -> int:
    """Uses whatever is valid of the configuration: a typing error in k8r.toml must not cost the way in."""
    node.require_root("identity apply")
    settings, problems = node.lenient()
    console.note(*(f"configuration: {problem}" for problem in problems))
    node.apply_identity(settings)
    console.say("the node's identity is applied")
    console.result({"applied": True, "problems": [problem.as_dict() for problem in problems]})
    return Exit.BAD_CONFIG if problems else Exit.OK
