"""slot list, verify, install-assets."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from k8r_agent.cli import render
from k8r_agent.cli.console import Console
from k8r_agent.errors import Exit, K8rError, Refused, UsageError
from k8r_agent.model.layout import IMAGE, WORKING
from k8r_agent.model.slots import Slot, SlotState
from k8r_agent.model.units import format_size

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from k8r_agent.cli.node import Node

NUMBERS = {Slot.IMAGE: IMAGE, Slot.WORKING: WORKING}


def run_list(args: Namespace, console: Console, node: Node) -> int:
    node.require_root("slot list")
    now = node.now()
    boot = node.boot_state() if node.facts() else None
    rows, slots = [], []
    for slot in (Slot.WORKING, Slot.IMAGE):
        status, (device, size) = node.slots.status(slot), _partition(node, slot)
        marks = [word for word, true in (("booted", boot and boot.current is slot),
                                         ("primary", boot and boot.primary is slot),
                                         ("armed", boot and boot.armed is slot)) if true]
        rows.append((str(slot), str(status.state), render.release(status.release, status.version), ", ".join(marks),
                     device, format_size(size) if size else "", status.digest[:12], render.ago(status.time, now)))
        slots.append({"slot": str(slot), **asdict(status), "state": str(status.state), "marks": marks,
                      "device": device, "size": size})
    console.say(*render.table(rows, head=("slot", "state", "release", "", "device", "size", "digest", "written")))
    console.result({"slots": slots})
    return Exit.OK


def _partition(node: Node, slot: Slot) -> tuple[str, int]:
    """Device and bytes; nothing where the disk cannot be told."""
    try:
        found = node.world.disks.own().partition(NUMBERS[slot])
    except K8rError:
        return "", 0
    return (str(found.device or ""), found.size) if found else ("", 0)


def arguments_verify(parser: ArgumentParser) -> None:
    parser.add_argument("slot", nargs="?", choices=["image"], default="image", metavar="SLOT",
                        help="image (the working slot changes while it is used, so there is nothing to compare)")


def run_verify(args: Namespace, console: Console, node: Node) -> int:
    """Reads every used block. Raises the error of the step when the slot is not what its manifest says."""
    from k8r_agent.cli.foreground import LineReporter
    from k8r_agent.cli.progress import ProgressLine

    node.require_root("slot verify")
    status = node.slots.status(Slot.IMAGE)
    if status.state is not SlotState.OK:
        raise Refused("the image slot cannot be verified", why=f"it is {status.state}",
                      hint="k8r-agent update" if status.state is SlotState.PENDING else "")
    line = ProgressLine(console.err)
    world = node.rehearsal("reinstall", {})
    world.report = LineReporter(line)
    try:
        with node.lock.hold(f"slot verify (pid {node.pid})"):
            node.steps["verify-image"].apply(world)
    finally:
        line.end()
    console.say(f"the image slot is {render.release(status.release, status.version)}, every used block of it")
    console.result({"slot": "image", "ok": True, "release": status.release, "digest": status.digest})
    return Exit.OK


def arguments_install_assets(parser: ArgumentParser) -> None:
    parser.add_argument("slot", nargs="?", choices=[str(slot) for slot in Slot], default="working", metavar="SLOT",
                        help="working: from /boot of the running system; image: from the bundle it was written from")
    parser.add_argument("--kernel", type=Path, metavar="FILE", help="this kernel, with --initrd")
    parser.add_argument("--initrd", type=Path, metavar="FILE", help="this initrd, with --kernel")


def run_install_assets(args: Namespace, console: Console, node: Node) -> int:
    """Written beside the present ones, read back, then one sector switches. Raises Busy during a transaction."""
    from k8r_agent.cli import bootassets

    node.require_root("slot install-assets")
    slot = Slot(args.slot)
    if bool(args.kernel) != bool(args.initrd):
        raise UsageError("--kernel and --initrd go together: a kernel needs the initrd with its modules")
    if slot is Slot.IMAGE and node.slots.status(slot).state is SlotState.PENDING:
        raise Refused("the image slot's kernel is not replaced", why="the slot is half written",
                      hint="k8r-agent update")
    boot = node.world.boot
    with node.lock.hold(f"slot install-assets (pid {node.pid})"), \
            bootassets.find(slot, args.kernel, args.initrd, node) as wanted:
        changed = boot.assets(slot) != wanted or (slot is Slot.IMAGE and not boot.state().image_offered)
        if changed:
            with node.world.machine.inhibit("installing a kernel"):
                boot.install_assets(slot, wanted)
    console.say(f"the {slot} slot boots {wanted.release}" + ("" if changed else ", as before"))
    console.result({"slot": str(slot), "release": wanted.release, "changed": changed})
    return Exit.OK
