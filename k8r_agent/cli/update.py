"""update: a newer release into the image slot; where that runs for want of a working one, into the working slot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from k8r_agent.cli import rescue
from k8r_agent.cli.console import Console
from k8r_agent.cli.parser import add_run_options, add_yes
from k8r_agent.cli.submit import submit
from k8r_agent.errors import Exit, NothingToDo, UsageError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from k8r_agent.cli.node import Node


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("source", nargs="?", metavar="DIR|URL",
                        help="the bundle; without it, update.source of the configuration")
    parser.add_argument("--force", action="store_true",
                        help="also a release that the image slot holds already, or that is in quarantine; in the "
                             "image slot also over a cluster that was made by hand")
    add_yes(parser, "do not ask, not even where the image slot runs for want of a working one: there the working slot "
                    "is overwritten")
    parser.add_argument("--if-auto", action="store_true",
                        help="do nothing unless update.auto is set (the timer calls it so)")
    add_run_options(parser)


def run(args: Namespace, console: Console, node: Node) -> int:
    node.require_root("update")
    settings = node.settings()
    if args.if_auto and not settings.update.auto:
        raise NothingToDo("update.auto is not set")
    rescued = rescue.needed(node)
    if args.if_auto and rescued:
        raise NothingToDo("the working slot is not written without an operator's word",
                          why="the node runs from the image slot")
    source = resolve(args.source, settings.update.source)
    wanted = {"source": source, **({"force": "yes"} if args.force else {})}
    if rescued:
        return rescue.run(wanted, args, console, node)
    code = submit("update", wanted, args, console, node)
    if code == Exit.OK and not (args.dry_run or args.no_wait or args.json):
        from k8r_agent.cli import report

        console.say(f"→ {report.advice(report.gather(node))}")
    return code


def resolve(given: str | None, configured: str) -> str:
    """An http(s) prefix as it is, a directory as an absolute path. Raises UsageError."""
    source = given or configured
    if not source:
        raise UsageError("where is the bundle?", why="no argument was given and update.source is not set",
                         hint="k8r-agent update DIR|URL, or set update.source in /etc/k8r/agent.toml")
    if "://" in source:
        from k8r_agent.config.readers import source as read

        try:
            return str(read(source))
        except ValueError as error:
            raise UsageError(str(error)) from None
    path = Path(source)
    if not path.is_dir():
        hint = "give the directory that holds manifest.toml" if path.exists() else ""
        raise UsageError(f"{source} is not a directory", hint=hint)
    return str(path.resolve())
