"""Observations from files as the kernel shows them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from k8r_agent.config.settings import NetworkSettings
from k8r_agent.effects import health
from k8r_agent.effects.machine import LocalMachine
from k8r_agent.errors import BusError

TCP = "  sl  local_address rem_address   st tx_queue\n   0: {address}:{port:04X} 00000000:0000 {state} 00000000:0\n"
ROUTE = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\neth0\t{to}\t0100A8C0\t0003\t0\t0\t0\t{mask}\n"


def write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


@pytest.mark.fault(4)
def test_modules_of_the_running_kernel(tmp_path: Path) -> None:
    assert not health.kernel(tmp_path, "6.1").ok
    write(tmp_path, "lib/modules/6.1/modules.dep", "")
    assert health.kernel(tmp_path, "6.1").ok


@pytest.fixture(autouse=True)
def no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_addresses", lambda: {"127.0.0.1", "::1", "fe80::1", "52:54:00:12:34:56"})


def test_an_address_in_a_network_without_a_router(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not health.network_up(tmp_path, NetworkSettings()).ok
    monkeypatch.setattr(health, "_addresses", lambda: {"127.0.0.1", "10.0.0.5"})
    assert health.network_up(tmp_path, NetworkSettings()).detail == "10.0.0.5"


def test_a_default_route(tmp_path: Path) -> None:
    assert not health.network_up(tmp_path, NetworkSettings()).ok
    write(tmp_path, "proc/net/route", ROUTE.format(to="0000A8C0", mask="00FFFFFF"))
    assert not health.network_up(tmp_path, NetworkSettings()).ok
    write(tmp_path, "proc/net/route", ROUTE.format(to="00000000", mask="00000000"))
    assert health.network_up(tmp_path, NetworkSettings()).detail == "route by eth0"


def test_a_default_route_of_ipv6_only(tmp_path: Path) -> None:
    zero = "0" * 32
    write(tmp_path, "proc/net/ipv6_route", f"{zero} 00 {zero} 00 {zero} ffffffff 1 0 00200200 lo\n")
    assert not health.network_up(tmp_path, NetworkSettings()).ok
    write(tmp_path, "proc/net/ipv6_route", f"{zero} 00 {zero} 00 fe8{'0' * 29} 400 1 0 00450003 eth1\n")
    assert health.network_up(tmp_path, NetworkSettings()).ok


def test_the_configured_address_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_addresses", lambda: {"127.0.0.1", "10.0.0.5"})
    assert health.network_up(tmp_path, NetworkSettings(address="10.0.0.5/24")).ok
    assert "10.0.0.6" in health.network_up(tmp_path, NetworkSettings(address="10.0.0.6/24")).detail


@pytest.mark.parametrize("name", ["tcp", "tcp6"])
def test_ssh_listens_on_its_port(tmp_path: Path, name: str) -> None:
    assert not health.ssh(tmp_path).ok
    write(tmp_path, f"proc/net/{name}", TCP.format(address="00000000", port=22, state="01"))
    assert not health.ssh(tmp_path).ok
    write(tmp_path, f"proc/net/{name}", TCP.format(address="00000000", port=22, state="0A"))
    assert health.ssh(tmp_path).ok
    write(tmp_path, "etc/ssh/sshd_config", "#Port 22\n  Port 2222\n")
    assert health.ssh(tmp_path).detail == "nobody listens on port 2222"


def test_state_is_there_or_explained(tmp_path: Path) -> None:
    assert health.state(tmp_path).ok
    for said in ("absent", "failed:no such device"):
        write(tmp_path, "run/k8r/boot", f"slot=working\nstate={said}\n")
        assert health.state(tmp_path).ok and said in health.state(tmp_path).detail
    write(tmp_path, "run/k8r/boot", "state=mounted\n")
    assert not health.state(tmp_path).ok
    write(tmp_path, "proc/self/mountinfo", "36 35 98:0 / /var/lib/k8r rw - ext4 /dev/vda4 rw\n")
    assert health.state(tmp_path).ok


def test_only_critical_units_condemn() -> None:
    assert health.units(lambda: ()).ok
    assert health.units(lambda: ("backup.service",)).detail == "1 others failed"
    assert health.units(lambda: ("backup.service", "ssh.service")).detail == "failed: ssh.service"

    def dead() -> tuple[str, ...]:
        raise BusError("no bus")
    assert not health.units(dead).ok


def test_the_release_is_the_one_that_was_written() -> None:
    assert health.release(2, 2).ok and health.release(0, 2).ok and health.release(2, 0).ok
    assert not health.release(1, 2).ok


@pytest.mark.fault(14)
def test_the_clock_never_runs_behind_what_was_recorded(tmp_path: Path) -> None:
    machine = LocalMachine(root=tmp_path)
    assert abs(machine.now() - time.time()) < 5
    future = time.time() + 10_000
    write(tmp_path, "var/lib/k8r/events.jsonl", "")
    os.utime(tmp_path / "var/lib/k8r/events.jsonl", (future, future))
    assert abs(machine.now() - future) < 1


def test_boards(tmp_path: Path) -> None:
    machine = LocalMachine(root=tmp_path)
    if machine.architecture() == "amd64":
        assert machine.boards() == ("generic-x86_64-bios",)
        (tmp_path / "sys/firmware/efi").mkdir(parents=True)
        assert machine.boards() == ("generic-x86_64",)
    write(tmp_path, "proc/device-tree/compatible", "raspberrypi,4-model-b\0brcm,bcm2711\0")
    assert machine.boards()[:2] == ("raspberrypi,4-model-b", "brcm,bcm2711")


def test_release_file(tmp_path: Path) -> None:
    machine = LocalMachine(root=tmp_path)
    assert machine.running_release() == 0
    for text, number in (("12\n", 12), ("", 0), ("x", 0), ("3 2026.11\n", 3)):
        write(tmp_path, "usr/lib/k8r/release", text)
        assert machine.running_release() == number
