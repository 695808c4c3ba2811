"""check: is there a newer release? Needs no privilege: the daily timer runs it as nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k8r_agent.cli import render
from k8r_agent.cli.console import Console
from k8r_agent.cli.update import resolve
from k8r_agent.errors import Exit

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from k8r_agent.cli.node import Node


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("source", nargs="?", metavar="DIR|URL",
                        help="the bundle; without it, update.source of the configuration")


def run(args: Namespace, console: Console, node: Node) -> int:
    settings, _ = node.lenient()
    source = resolve(args.source, settings.update.source)
    with node.bundles.open(source) as bundle:
        manifest, signer = bundle.manifest, bundle.signer
    present = node.newest_release()
    newer = manifest.release > present
    name = render.release(manifest.release, manifest.version)
    if newer:
        console.say(f"{name} is available, the node has release {present or 'unknown'}: `k8r-agent update`")
    else:
        console.say(f"nothing newer: {source} has {name}, the node has release {present}")
    console.result({"newer": newer, "source": source, "release": manifest.release, "version": manifest.version,
                    "os": manifest.os, "kubernetes": manifest.kubernetes, "signer": signer, "present": present})
    return Exit.OK if newer else Exit.NOTHING_TO_DO
