"""Is the running slot well? Only observations; what they mean is decided in steps/health.py."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from k8r_agent.config.settings import NetworkSettings
from k8r_agent.errors import BusError

# A failed unit outside this list is the owner's business and no reason to leave a release.
CRITICAL_UNITS = frozenset({
    "local-fs.target", "sysinit.target", "basic.target", "systemd-journald.service", "systemd-udevd.service",
    "systemd-remount-fs.service", "dbus.service", "dbus.socket", "dbus-broker.service", "systemd-logind.service",
    "systemd-networkd.service", "NetworkManager.service", "networking.service", "ssh.service", "ssh.socket",
    "sshd.service", "boot-firmware.mount", "var-lib-k8r.mount", "k8r-identity.service", "k8r-runner.path",
    "containerd.service", "kubelet.service",
})
_RTF_UP = 0x1
_LISTEN = "0A"


@dataclass(frozen=True, kw_only=True)
class Checked:
    """One observation; `name` is stable, `detail` is for people."""

    name: str
    ok: bool
    detail: str


def observe(*, root: Path, network: NetworkSettings, failed_units: Callable[[], tuple[str, ...]],
            running: int, expected: int) -> tuple[Checked, ...]:
    return (
        kernel(root), network_up(root, network), ssh(root), state(root), release(running, expected),
        units(failed_units),
    )


def kernel(root: Path, version: str = "") -> Checked:
    """An old kernel beside new modules boots, and then cannot load what the node needs."""
    version = version or os.uname().release
    directory = root / "lib/modules" / version
    if not (directory / "modules.dep").is_file():
        return Checked(name="kernel", ok=False, detail=f"no modules for the running kernel in {directory}")
    return Checked(name="kernel", ok=True, detail=version)


def network_up(root: Path, network: NetworkSettings) -> Checked:
    routes = list(_default_routes(root))
    wanted = network.address.split("/")[0]
    if wanted and wanted not in _addresses():
        return Checked(name="network", ok=False, detail=f"the configured address {wanted} is on no interface")
    found = [wanted] if wanted else sorted(a for a in _addresses() if not _local(a))
    if not routes and not found:
        return Checked(name="network", ok=False, detail="no default route and no address")
    ways = found if not routes or wanted else []
    return Checked(name="network", ok=True, detail=", ".join([*ways, *(f"route by {route}" for route in routes)]))


def _default_routes(root: Path) -> Iterator[str]:
    with contextlib.suppress(OSError):
        for line in (root / "proc/net/route").read_text().splitlines()[1:]:
            fields = line.split()
            if len(fields) > 7 and fields[1] == fields[7] == "00000000" and int(fields[3], 16) & _RTF_UP:
                yield fields[0]
    with contextlib.suppress(OSError):
        for line in (root / "proc/net/ipv6_route").read_text().splitlines():
            fields = line.split()
            if len(fields) > 9 and fields[0] == "0" * 32 and fields[1] == "00" and fields[9] != "lo":
                yield fields[9]


def _local(address: str) -> bool:
    """Loopback and link-local addresses reach nobody. A network without a router is still a network."""
    import ipaddress

    try:
        found = ipaddress.ip_address(address)
    except ValueError:  # a MAC address
        return True
    return found.is_loopback or found.is_link_local


def _addresses() -> set[str]:
    import psutil

    return {a.address.split("%")[0] for addresses in psutil.net_if_addrs().values() for a in addresses}


def ssh(root: Path) -> Checked:
    """Somebody listens where sshd_config says (22 by default). Socket activation counts."""
    ports = _ssh_ports(root)
    listening = set(_listening(root))
    missing = sorted(ports - listening)
    if missing:
        return Checked(name="ssh", ok=False, detail=f"nobody listens on port {missing[0]}")
    return Checked(name="ssh", ok=True, detail=f"port {', '.join(map(str, sorted(ports)))}")


def _ssh_ports(root: Path) -> set[int]:
    ports: set[int] = set()
    for path in [root / "etc/ssh/sshd_config", *sorted((root / "etc/ssh/sshd_config.d").glob("*.conf"))]:
        with contextlib.suppress(OSError):
            text = path.read_text(errors="replace")
            ports |= {int(port) for port in re.findall(r"(?im)^\s*port[\s=]+(\d+)", text)}
    return ports or {22}


def _listening(root: Path) -> Iterator[int]:
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (root / "proc/net" / name).read_text().splitlines()[1:]:
                fields = line.split()
                if len(fields) > 3 and fields[3] == _LISTEN:
                    yield int(fields[1].rpartition(":")[2], 16)


def state(root: Path) -> Checked:
    """Well also when the initramfs says why it is not there: another boot would not bring it back, and the node
    must not leave a slot for it. Not well when it should be there and is not."""
    facts = _facts(root)
    said = facts.get("state", "")
    if said.startswith("failed") or said == "absent":
        return Checked(name="state", ok=True, detail=f"no state partition ({said})")
    if said == "mounted" and not _mounted(root, "/var/lib/k8r"):
        return Checked(name="state", ok=False, detail="the state partition was mounted at boot and is gone")
    return Checked(name="state", ok=True, detail=said or "not booted as a slot")


def _facts(root: Path) -> dict[str, str]:
    try:
        lines = (root / "run/k8r/boot").read_text().splitlines()
    except OSError:
        return {}
    return {key: value for key, _, value in (line.partition("=") for line in lines)}


def _mounted(root: Path, where: str) -> bool:
    with contextlib.suppress(OSError):
        return any(line.split()[4] == where for line in (root / "proc/self/mountinfo").read_text().splitlines())
    return False


def release(running: int, expected: int) -> Checked:
    """The slot runs what was written into it."""
    if running and expected and running != expected:
        return Checked(name="release", ok=False, detail=f"release {running} runs, but {expected} was written")
    return Checked(name="release", ok=True, detail=str(running or "not known"))


def units(failed_units: Callable[[], tuple[str, ...]]) -> Checked:
    try:
        failed = failed_units()
    except BusError as error:
        return Checked(name="units", ok=False, detail=str(error))
    critical = [unit for unit in failed if unit in CRITICAL_UNITS]
    if critical:
        return Checked(name="units", ok=False, detail=f"failed: {', '.join(critical)}")
    return Checked(name="units", ok=True, detail=f"{len(failed)} others failed" if failed else "none failed")
