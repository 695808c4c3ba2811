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
    bad = next((one for one in node.quarantined() if one.release == manifest.release), None)
    newer = manifest.release > present and bad is None
    name = render.release(manifest.release, manifest.version)
    if newer:
        console.say(f"{name} is available, the node has release {present or 'unknown'}: `k8r-agent update`")
    elif bad:
        console.say(f"{name} is in quarantine on this node ({bad.why}): `k8r-agent update --force` takes it anyway")
    else:
        console.say(f"nothing newer: {source} has {name}, the node has release {present}")
    console.result({"newer": newer, "source": source, "release": manifest.release, "version": manifest.version,
                    "os": manifest.os, "kubernetes": manifest.kubernetes, "signer": signer, "present": present,
                    "quarantined": bad.why if bad else ""})
    return Exit.OK if newer else Exit.NOTHING_TO_DO
