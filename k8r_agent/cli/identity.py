"""identity capture, apply: what makes the node itself, between the running system and the state partition."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from k8r_agent.cli.console import Console
from k8r_agent.errors import Exit
from k8r_agent.steps import membership

if TYPE_CHECKING:
    from argparse import Namespace

    from k8r_agent.cli.node import Node
    from k8r_agent.effects.identity import NodeIdentity


def run_capture(args: Namespace, console: Console, node: Node) -> int:
    node.require_root("identity capture")
    node.world.identity.capture()
    membership.follow(node.world)
    persistent = node.files.persistent()
    console.say("the node's identity is on the state partition" if persistent else
                "there is no state partition: the node's identity is kept in memory only, until it goes down")
    console.result({"captured": True, "persistent": persistent})
    return Exit.OK


def run_apply(args: Namespace, console: Console, node: Node) -> int:
    """Uses whatever is valid of the configuration: a typing error in k8r.toml must not cost the way in."""
    node.require_root("identity apply")
    _, problems = node.lenient()
    console.note(*(f"configuration: {problem}" for problem in problems))
    changed = cast("NodeIdentity", node.world.identity).apply()
    console.say(*(changed or ["the node's identity is in place already"]))
    console.result({"applied": True, "changed": list(changed),
                    "problems": [problem.as_dict() for problem in problems]})
    return Exit.BAD_CONFIG if problems else Exit.OK
