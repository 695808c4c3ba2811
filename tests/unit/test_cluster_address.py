"""Under which address a node is known in its cluster."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from k8r_agent.effects import kubeapi


class Entry(NamedTuple):
    family: int
    address: str


def island(monkeypatch: pytest.MonkeyPatch, links: Path, devices: dict[str, list[str]]) -> None:
    """A network without a router. Beside the devices there is the bridge of the pods."""
    for name in devices:
        (links / name / "device").mkdir(parents=True)
    (links / "cni0").mkdir()
    found = {name: [Entry(socket.AF_INET6 if ":" in text else socket.AF_INET, text) for text in texts]
             for name, texts in {"lo": ["127.0.0.1"], "cni0": ["10.244.0.1"], **devices}.items()}
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: found)
    monkeypatch.setattr(kubeapi, "_NOWHERE", ())


@pytest.mark.parametrize(("devices", "address"), [
    ({"eth0": ["10.77.0.10", "fe80::1%eth0"]}, "10.77.0.10"),
    ({"eth0": ["fd00::5", "fe80::1%eth0"]}, "fd00::5"),
    ({"eth0": ["10.77.0.10"], "wlan0": ["fe80::2%wlan0"]}, "10.77.0.10"),
    ({"eth0": ["10.77.0.10"], "eth1": ["192.168.0.2"]}, ""),
    ({"eth0": ["169.254.3.4"]}, ""),
    ({}, ""),
])
def test_the_only_address_where_no_router_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                             devices: dict[str, list[str]], address: str) -> None:
    island(monkeypatch, tmp_path, devices)
    assert kubeapi.address(tmp_path) == address
