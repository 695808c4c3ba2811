"""Nodes with a past: how long things may take, and snapshots of nodes that have been through something."""

from __future__ import annotations

from typing import Any

from tests.lab.images import bundle_of
from tests.lab.node import Node
from tests.lab.site import Lab
from tests.lab.snapshots import Snapshot
from tests.lab.toml import load

FIRST_BOOT, UPDATE, REINSTALL, BOOT = 900.0, 900.0, 1500.0, 400.0  # seconds; a busy machine is slow, not wrong
QUICK = {"boot": {"grace": '"10s"'}}  # for restored nodes that are to run out of tries: what they do then comes soon


def first_boot(lab: Lab, loader: str, table: str = "gpt") -> tuple[Node, dict[str, Any]]:
    """From a flashed disk to a working node that is switched off again, and what it looked like."""
    name = f"first-{loader}-{table}"
    node = lab.node(name, lab.flash(name, loader=loader, table=table))
    agent = lab.agent(node)
    node.start()
    seen: dict[str, Any] = {"status": agent.wait_idle("first-boot", timeout=FIRST_BOOT), "events": agent.events()}
    wait_complete(node)
    node.stop()
    seen |= {"table": node.disk.table(), "sizes": {str(n): span.size for n, span in node.disk.partitions().items()}}
    return node, seen


def updated(lab: Lab, loader: str) -> tuple[Node, dict[str, Any]]:
    """Release 2 is in the image slot, release 1 works; off."""
    node = settled(lab, f"updating-{loader}", loader)
    node.start()
    node.wait_ssh(timeout=BOOT)
    lab.agent(node).run(f"update {lab.url(2)}", timeout=UPDATE)
    wait_complete(node)
    node.stop()
    return node, {}


def wait_complete(node: Node) -> None:
    """Until the boot is confirmed, so that switching off costs no try."""
    node.wait_until(lambda n: "active" in n.ssh("systemctl is-active k8r-boot-confirm.service", ok=(0, 3)).split(),
                    "boot confirmed", timeout=BOOT)


def kept(lab: Lab, loader: str) -> Snapshot:
    return lab.kept(f"settled-{loader}", lambda: first_boot(lab, loader))


def settled(lab: Lab, name: str, loader: str, **options: Any) -> Node:
    """A node with a past: release 1 on both slots, off. The first boot happens once for each loader."""
    return lab.restore(kept(lab, loader), name, **options)


def waiting(lab: Lab, name: str, loader: str, **options: Any) -> Node:
    """A settled node that has release 2 in its image slot, off."""
    return lab.restore(lab.kept(f"updated-{loader}", lambda: updated(lab, loader)), name, **options)


def image_of(lab: Lab, release: int) -> tuple[int, str]:
    """Unpacked bytes and their sha256, from the manifest."""
    manifest = load(bundle_of(lab.build, release) / "manifest.toml")
    artifact = next(a for a in manifest["artifact"] if a["kind"] == "image")
    return int(artifact["unpacked_size"]), str(artifact["unpacked_sha256"])
