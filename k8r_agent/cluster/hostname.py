"""The node's name in its cluster. Two nodes of one name would take each other's place."""

from __future__ import annotations

import ipaddress
import re

# What images are called before anybody gave them a name.
UNNAMED = ("", "localhost", "localhost.localdomain", "debian", "ubuntu", "raspberrypi", "k8r", "k8r-node", "host",
           "linux")
_MADE_UP = re.compile(r"node-[0-9a-f]{8}")  # what the agent calls a system without a name


def choose(*, setting: str, current: str, address: str) -> str:
    """`setting` is node.hostname; `current` what the system has, which is kept unless every flashed image has it;
    `address` that of the default route, "" without one. "" when there is nothing to make a name of yet."""
    if setting:
        return setting
    if current.lower() not in UNNAMED and not _MADE_UP.fullmatch(current):
        return current
    return from_address(address) if address else ""


def from_address(address: str) -> str:
    """As k8r names nodes: 192.168.1.20 is 192-168-1-20. Of IPv6 all digits are written: a name must not begin or end
    with a dash."""
    found = ipaddress.ip_address(address)
    return found.exploded.replace(":", "-").replace(".", "-")
