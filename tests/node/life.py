"""The whole life of a node: first boot, a fortnight's work, update, reinstall, a look into the image slot."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from tests.lab.agent import Agent
from tests.lab.keys import ssh_key
from tests.lab.node import CommandError, Node
from tests.lab.past import BOOT, REINSTALL, UPDATE, image_of, kept, settled, wait_complete
from tests.lab.qmp import QmpError
from tests.lab.site import MIB, Lab

IDENTITY = {
    "machine-id": "cat /etc/machine-id",
    "hostname": "hostname",
    "host key": "cat /etc/ssh/ssh_host_ed25519_key.pub | cut -d' ' -f1,2",
    "user": "id ops",
    "address": "ip -4 -brief address show scope global | grep -o '[0-9.]*/[0-9]*'",
    "/etc/k8r": "cat /etc/k8r/conf.d/50-site.toml",
}


@dataclass
class Seen:
    """What a life left to look at. Digests are of the image partition as the host sees it."""

    first: dict[str, Any] = field(default_factory=dict)
    first_events: list[dict[str, Any]] = field(default_factory=list)
    sizes: dict[int, int] = field(default_factory=dict)  # partition → bytes after the first boot
    identity: dict[str, dict[str, str]] = field(default_factory=dict)  # at which point → what
    lease: dict[str, list[str]] = field(default_factory=dict)
    images: dict[str, str] = field(default_factory=dict)
    statuses: dict[str, dict[str, Any]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    written: int = 0
    inhibitors: str = ""
    processes: list[str] = field(default_factory=list)


def life(lab: Lab, name: str, loader: str) -> Seen:
    first = kept(lab, loader).seen
    seen = Seen(first=first["status"], first_events=first["events"],
                sizes={int(number): size for number, size in first["sizes"].items()})
    node = settled(lab, name, loader)
    node.start()
    node.wait_ssh(timeout=BOOT)
    agent = lab.agent(node)
    _live(lab, seen, node)
    _note(seen, "before", node)
    _update(lab, seen, node, agent, by_itself=loader == "grub")
    _reinstall(seen, node, agent)
    _note(seen, "after", node)
    _look_at_image(seen, node, agent)
    seen.events = agent.events()
    seen.texts["console"] = node.serial.text()
    seen.texts["status"], seen.texts["events"] = node.ssh("k8r-agent status"), node.ssh("k8r-agent events --last 0")
    return seen


def _live(lab: Lab, seen: Seen, node: Node) -> None:
    """What a node gathers: a user with a key, a setting, 300 MB of data."""
    public = ssh_key(lab.key.with_name("ops"))
    node.ssh("useradd --create-home --shell /bin/bash ops && install -d -o ops -g ops -m 700 /home/ops/.ssh && "
             f"echo '{public}' > /home/ops/.ssh/authorized_keys && chown ops: /home/ops/.ssh/authorized_keys")
    node.ssh("mkdir -p /etc/k8r/conf.d && printf '[boot]\\ndeadline = \"9min\"\\n' > /etc/k8r/conf.d/50-site.toml")
    node.ssh("mkdir -p /srv/data && dd if=$(sed -n 's,^rootpart=,/dev/,p' /run/k8r/boot) of=/srv/data/volume "
             "bs=1M count=300 status=none && sync", timeout=300)
    seen.texts["stranger"] = node.try_ssh("setpriv --reuid=65534 --regid=65534 --clear-groups "
                                          "cat /boot/firmware/k8r.toml").err
    time.sleep(6)  # the path unit lets usermod and friends finish before it looks


def _note(seen: Seen, point: str, node: Node) -> None:
    seen.identity[point] = {what: node.ssh(command).strip() for what, command in IDENTITY.items()}
    seen.lease[point] = node.network.lease(node.index)


def _update(lab: Lab, seen: Seen, node: Node, agent: Agent, *, by_itself: bool) -> None:
    """Submitted by the timer's units, or over an SSH session that is lost while the slot is written."""
    seen.texts["check"] = node.ssh(f"k8r-agent check {lab.url(2)}", ok=(0, 77))
    lab.web.site.rate = 24 * MIB
    if by_itself:
        node.ssh(f"printf '[update]\\nauto = true\\nsource = \"{lab.url(2)}\"\\n' > /etc/k8r/conf.d/60-auto.toml")
        node.ssh("systemctl start --no-block k8r-update-check.service")
        agent.wait_step("write-image", task="update", timeout=UPDATE)
    else:
        agent.run_and_lose(f"update {lab.url(2)}", step="write-image", timeout=UPDATE)
    seen.inhibitors = node.ssh("systemd-inhibit --list --no-pager")
    seen.texts["runner"] = node.ssh("systemctl show -P StatusText k8r-runner.service")
    lab.web.site.rate = 0.0
    seen.statuses["updated"] = agent.wait_idle("update", timeout=UPDATE)
    size, seen.images["in the manifest"] = image_of(lab, 2)
    seen.images["on the disk"] = node.disk.digest(2, length=size)
    time.sleep(5)
    seen.processes = [line for line in node.ssh("ps -eo pid=,args=").splitlines() if "k8r-agent" in line
                      and "ps -eo" not in line]


class Meter:
    """Bytes the node writes to its disk, sampled with the time."""

    def __init__(self, node: Node) -> None:
        self._node, self._stop = node, threading.Event()
        self.samples: list[tuple[float, int]] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._stop.wait(0.5):
            with contextlib.suppress(QmpError, OSError):
                self.samples.append((time.time(), self._node.qmp.written("disk0")))

    def __enter__(self) -> Meter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def between(self, start: float, end: float) -> int:
        """The clocks of node and host differ by less than a second, and boots are idle: a margin costs nothing."""
        before = [value for when, value in self.samples if when <= start - 1.0]
        after = [value for when, value in self.samples if when >= end + 1.0]
        return after[0] - before[-1]


def _reinstall(seen: Seen, node: Node, agent: Agent) -> None:
    with Meter(node) as meter:
        agent.run_and_lose("reinstall --yes", step="preflight", timeout=BOOT)
        with contextlib.suppress(TimeoutError, CommandError):
            agent.wait_step("self-check", task="reinstall", timeout=REINSTALL / 2)
            _note(seen, "in the image slot", node)
        seen.statuses["reinstalled"] = agent.wait_idle("reinstall", timeout=REINSTALL)
        time.sleep(2)
    times = {e["kind"]: float(e["time"]) for e in agent.events()
             if e["step"] == "write-working" and e["task"] == "reinstall"}
    seen.written = meter.between(times["started"], times["succeeded"])
    ended = subprocess.run(node.ssh_argv("true", user="ops", options=("-i", str(node.key.with_name("ops")))),
                           capture_output=True)
    seen.texts["ops login"] = str(ended.returncode)


def _look_at_image(seen: Seen, node: Node, agent: Agent) -> None:
    """A visit to the image slot outside a transaction: nothing of it may stick, and the node returns by itself."""
    before = node.disk.digest(2)
    boot = node.wait_ssh()
    wait_complete(node)
    node.try_ssh("k8r-agent reboot --slot image")
    node.wait_boot(boot, timeout=BOOT)
    seen.statuses["visit"] = agent.status()
    _note(seen, "on a visit", node)
    node.ssh("echo graffiti > /etc/graffiti && dd if=/dev/zero of=/var/tmp/x bs=1M count=20 status=none && sync")
    boot = node.wait_ssh()
    node.try_ssh("systemctl reboot")
    node.wait_boot(boot, timeout=BOOT)
    seen.statuses["back"] = agent.status()
    seen.images["before a visit"], seen.images["after a visit"] = before, node.disk.digest(2)
