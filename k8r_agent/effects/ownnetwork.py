"""A node's own network settings: where they lie, and who is to be told when a boot puts them back."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from k8r_agent.effects.placing import place
from k8r_agent.errors import CommandFailed
from k8r_agent.ports.commands import Commands

log = logging.getLogger("k8r-agent")

PLACES = {
    "systemd": "etc/systemd/network", "netplan": "etc/netplan",
    "NetworkManager": "etc/NetworkManager/system-connections",
    "ifupdown": "etc/network", "ifupdown.d": "etc/network/interfaces.d",
}
NETPLAN = "usr/sbin/netplan"


def put_back(root: Path, kind: str, leaf: str, data: bytes) -> str:
    """The path that changed, "" when it was there already. systemd-networkd reads its files as a user of its own,
    unless they hold secrets; the others read as root."""
    changed = place(root / PLACES[kind] / leaf, data, mode=0o644 if kind == "systemd" else 0o600)
    return f"/{PLACES[kind]}/{leaf}" if changed else ""


def tell(root: Path, changed: Sequence[str], commands: Commands) -> None:
    """Before the network comes up. Most read their files after that; netplan is a generator of systemd's, and udev
    looks for a device's .link file when it first sees the device: both came before the files did. That one of them
    complains (of what its owner wrote) is no reason to call the identity incomplete: it goes to the log."""
    try:
        _tell(root, changed, commands)
    except CommandFailed as error:
        log.error("the node's own network settings may not be in effect: %s", error)


def _tell(root: Path, changed: Sequence[str], commands: Commands) -> None:
    if (root / NETPLAN).exists() and any(path.startswith(f"/{PLACES['netplan']}/") for path in changed):
        commands.run(["netplan", "generate"], timeout=60)
    if any(path.endswith(".link") for path in changed):
        commands.run(["udevadm", "control", "--reload"])
        commands.run(["udevadm", "trigger", "--action=add", "--subsystem-match=net", "--settle"], timeout=60)
