"""bundle info, verify."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from k8r_agent.cli import render
from k8r_agent.cli.console import Console
from k8r_agent.cli.progress import ProgressLine
from k8r_agent.cli.update import resolve
from k8r_agent.errors import BundleError, Exit
from k8r_agent.model.units import format_size
from k8r_agent.ports.bundle import Bundle

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from k8r_agent.cli.node import Node


def arguments_info(parser: ArgumentParser) -> None:
    parser.add_argument("source", nargs="?", metavar="DIR|URL",
                        help="the bundle; without it, update.source of the configuration")


arguments_verify = arguments_info


def run_info(args: Namespace, console: Console, node: Node) -> int:
    settings, _ = node.lenient()
    with node.bundles.open(resolve(args.source, settings.update.source)) as bundle:
        console.say(*_text(bundle, node))
        console.result(_value(bundle))
    return Exit.OK


def _text(bundle: Bundle, node: Node) -> list[str]:
    found = bundle.manifest
    lines = render.pairs([
        ("source", bundle.source), ("signed by", bundle.signer or "nobody"),
        ("release", render.release(found.release, found.version)), ("system", found.os),
        ("kubernetes", found.kubernetes or "none"), ("for", ", ".join(found.compatible)),
        ("architecture", found.architecture), ("created", found.created),
        ("this node", "release " + (str(node.newest_release()) or "unknown")),
    ])
    rows = [(a.kind, a.file, format_size(a.size), f"{format_size(a.unpacked_size)} unpacked", a.sha256[:12])
            for a in found.artifacts]
    return [*lines, "", *render.table(rows)]


def _value(bundle: Bundle) -> dict[str, object]:
    return {"source": bundle.source, "signer": bundle.signer, "manifest": asdict(bundle.manifest)}


def run_verify(args: Namespace, console: Console, node: Node) -> int:
    """Raises BundleError for anything that is not as the manifest says."""
    settings, _ = node.lenient()
    line = ProgressLine(console.err)
    with node.bundles.open(resolve(args.source, settings.update.source)) as bundle:
        bundle.boot_assets()
        image = bundle.manifest.artifact("image")
        if image is None:
            raise BundleError("the bundle holds no image")
        done = 0
        with bundle.image() as source:
            for chunk in source.chunks():
                done += len(chunk)
                line.update("reading the image", done, image.unpacked_size)
        line.end()
        console.say(f"{render.release(bundle.manifest.release, bundle.manifest.version)}: {format_size(done)}, every "
                    f"hash as the manifest says; signed by {bundle.signer or 'nobody'}")
        unfit = _unfit(bundle, node)
        console.note(*(f"but it is not for this machine: {why}" for why in unfit))
        console.result({**_value(bundle), "ok": True, "bytes": done, "unfit": unfit})
    return Exit.OK


def _unfit(bundle: Bundle, node: Node) -> list[str]:
    """Why an update would refuse it here. No error: bundles are verified on other machines, too."""
    machine, manifest, found = node.world.machine, bundle.manifest, []
    if manifest.architecture and manifest.architecture != machine.architecture():
        found.append(f"it is for {manifest.architecture}, this is {machine.architecture()}")
    if manifest.compatible and not set(manifest.compatible) & set(machine.boards()):
        found.append(f"it is for {', '.join(manifest.compatible)}; this is {', '.join(machine.boards())}")
    return found
