"""What can be asked over the network without a credential: an API server, the local kubelet, the routing table."""

from __future__ import annotations

import base64
import binascii
import contextlib
import http.client
import json
import re
import socket
import ssl
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from k8r_agent.ports.cluster import Probe

_CLUSTER_INFO = "/api/v1/namespaces/kube-public/configmaps/cluster-info"
_CA = re.compile(r"certificate-authority-data:\s*([A-Za-z0-9+/=]+)")
_TIMEOUT = 10.0  # seconds
_MAX = 1 << 20
_KUBELET = ("127.0.0.1", 10248)
_NOWHERE = (("192.0.2.1", socket.AF_INET), ("2001:db8::1", socket.AF_INET6))  # documentation's: nothing is sent


def probe(endpoint: str) -> Probe:
    """Nothing of the answer is trusted: the CA in it is good only for a comparison with what this node was told or
    remembers. kubeadm publishes it to everybody (ConfigMap cluster-info); an API server that does not says so in an
    object of its own (Status). Anything else is a web server, or a load balancer with nobody behind it."""
    host, _, port = endpoint.rpartition(":")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with contextlib.closing(http.client.HTTPSConnection(host.strip("[]"), int(port), timeout=_TIMEOUT,
                                                            context=context)) as connection:
            connection.request("GET", _CLUSTER_INFO, headers={"Accept": "application/json"})
            local = connection.sock.getpeername()[0] == connection.sock.getsockname()[0]
            body = connection.getresponse().read(_MAX)
    except ssl.SSLError as error:
        return Probe(reachable=False, why=f"{endpoint} is no API server: {error.reason or error}")
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Probe(reachable=False, why=f"{endpoint}: {getattr(error, 'strerror', None) or error}")
    said = _object(body)
    if said.get("kind") not in ("ConfigMap", "Status"):
        return Probe(reachable=True, foreign=True, local=local,
                     why=f"what answers at {endpoint} does not speak like an API server")
    return Probe(reachable=True, ca=_ca(said), local=local)


def _object(body: bytes) -> dict[str, Any]:
    """Empty when it is none."""
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(body)
        return found if isinstance(found, dict) else {}
    return {}


def _ca(said: dict[str, Any]) -> bytes:
    try:
        found = _CA.search(said["data"]["kubeconfig"])
        return base64.b64decode(found[1], validate=True) if found else b""
    except (ValueError, KeyError, TypeError, binascii.Error):
        return b""


def kubelet_says() -> str:
    """`ok` when it is healthy; "" when nobody listens."""
    try:
        with contextlib.closing(http.client.HTTPConnection(*_KUBELET, timeout=5)) as connection:
            connection.request("GET", "/healthz")
            return connection.getresponse().read(200).decode("utf-8", "replace").strip()
    except (OSError, http.client.HTTPException):
        return ""


def listening(where: tuple[str, int]) -> bool:
    try:
        with socket.create_connection(where, timeout=5):
            return True
    except OSError as error:
        return isinstance(error, TimeoutError)  # nobody said no


def address(links: Path = Path("/sys/class/net")) -> str:
    """The address that a packet to the rest of the world would carry. A network without a router has no such way: then
    the one address of the machine's own network devices, which pods' bridges are not; "" when there are several."""
    for target, family in _NOWHERE:
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((target, 9))
            return str(probe.getsockname()[0])
    for family in (socket.AF_INET, socket.AF_INET6):
        if found := _of_devices(links, family):
            return found[0] if len(found) == 1 else ""
    return ""


def _of_devices(links: Path, family: socket.AddressFamily) -> list[str]:
    import psutil

    found = [entry.address for name, entries in psutil.net_if_addrs().items() if (links / name / "device").exists()
             for entry in entries if entry.family == family]
    return [text for text in found if not ip_address(text.partition("%")[0]).is_link_local]
