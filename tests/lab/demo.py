"""The demo: a node's whole life on a virtual machine, told as it happens.

Usage: python3 -m tests.lab.demo BUILD_DIRECTORY [--loader grub] [--kubernetes]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tests.lab import members
from tests.lab.accel import has_kvm
from tests.lab.agent import Agent, is_end
from tests.lab.kubernetes import STAND_IN, VERSION, golden
from tests.lab.node import CommandError, Node, rest_after
from tests.lab.serial import MILESTONES
from tests.lab.site import LOADERS, Lab

BOLD, DIM, PLAIN = ("\x1b[1m", "\x1b[2m", "\x1b[0m") if sys.stdout.isatty() and "NO_COLOR" not in os.environ \
    else ("", "", "")
NAME = "demo-1"
CONSOLE = {"firmware": "firmware", "kernel": "kernel", "initramfs": "initramfs", "systemd": "systemd",
           "reboot": "the node reboots", "panic": "kernel panic"}


class Teller:
    """Lines with the time since the start. Milestones come from the console's thread."""

    def __init__(self) -> None:
        self._start, self._lock, self._last = time.monotonic(), threading.Lock(), ""

    def say(self, text: str, *, style: str = "") -> None:
        with self._lock:
            sys.stdout.write(f"{DIM}[{time.monotonic() - self._start:5.0f} s]{PLAIN} {style}{text}"
                             f"{PLAIN if style else ''}\n")
            sys.stdout.flush()

    def chapter(self, text: str) -> None:
        self.say("")
        self.say(text, style=BOLD)

    def console(self, _: str, line: str) -> None:
        mark = next((name for name, seen in MILESTONES.items() if name in CONSOLE and seen.search(line)), "")
        if mark and mark != self._last:
            self._last = mark
            self.say(f"  console: {CONSOLE[mark]}", style=DIM)
        elif line.startswith("k8r: "):
            self.say(f"  console: {line}", style=DIM)


class Watcher:
    """Tells each step of a transaction once it has ended, across reboots, until the transaction is over."""

    def __init__(self, teller: Teller, node: Node) -> None:
        self._teller, self._node, self._agent = teller, node, Agent(node)
        self._seen = 0

    def skip(self) -> None:
        self._seen = len(self._agent.events())

    def follow(self, task: str, *, timeout: float) -> None:
        """By its events, since another transaction may follow at once. Raises RuntimeError when it fails,
        TimeoutError."""
        end = time.monotonic() + timeout
        while (asked := time.monotonic()) < end:
            with contextlib.suppress(CommandError):
                for event in self._agent.events()[self._seen:]:
                    self._seen += 1
                    self._tell(event)
                    if event["task"] == task and is_end(event):
                        if event["kind"] == "failed":
                            raise RuntimeError(f"{task} failed: {event['message']}")
                        return
            time.sleep(rest_after(asked, every=1.5))
        raise TimeoutError(f"{task} did not end within {timeout:g} s")

    def _tell(self, event: dict[str, Any]) -> None:
        if event["kind"] == "started" or not event["step"]:
            return
        mark = {"succeeded": "✓", "failed": "✗"}.get(event["kind"], "·")
        text = f"  {mark} {event['step']:<24} in {event['slot'] or '?':<8}"
        took = f"{event['duration']:6.1f} s" if event["duration"] else ""
        self._teller.say(f"{text} {took}  {event['message']}".rstrip())


def command(teller: Teller, node: Node, text: str) -> int:
    """Run at the node's prompt, its output as it comes."""
    teller.say(f"root@{node.name}# {text}", style=BOLD)
    process = subprocess.Popen(node.ssh_argv(text), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, errors="replace")
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip():
            teller.say(f"  {line.rstrip()}")
    return process.wait()


def flash(lab: Lab, teller: Teller, loader: str, kubernetes: bool) -> Node:
    kind = "KVM" if has_kvm() else "emulation"
    teller.chapter(f"A disk is flashed with release 1 and the node is switched on ({kind}, {loader})")
    if kubernetes:
        teller.say("  its k8r.toml says the host name, a key, and that it is the first node of a new cluster")
        return members.flashed(lab, NAME, members.FIRST)
    teller.say("  its k8r.toml says the host name and a key")
    return lab.node(NAME, lab.flash(NAME, loader=loader))


def life(lab: Lab, teller: Teller, loader: str, kubernetes: bool) -> None:
    node = flash(lab, teller, loader, kubernetes)
    node.start()
    node.wait_ssh(timeout=300)
    teller.chapter("First boot: partitions, state, working slot")
    watcher = Watcher(teller, node)
    watcher.follow("first-boot", timeout=members.FIRST_BOOT)
    node.wait_ssh()
    if kubernetes:
        teller.chapter(f"kubeadm init, Kubernetes {VERSION}: the node is the control plane of a cluster of its own")
        watcher.follow("join", timeout=members.ENTER)
    teller.chapter("Update: release 2 into the image slot, while the node works")
    command(teller, node, f"k8r-agent check {lab.url(2)}")
    if command(teller, node, f"k8r-agent update --yes {lab.url(2)}"):
        raise RuntimeError("the update failed")
    watcher.skip()
    teller.chapter("Reinstall: flip to the image slot, rewrite the working slot, come back")
    if command(teller, node, "k8r-agent reinstall --yes") not in (0, 255):  # 255: rebooted under the connection
        raise RuntimeError("the reinstall was refused")
    watcher.follow("reinstall", timeout=members.REINSTALL)
    node.wait_ssh()
    teller.chapter("What the node says about itself")
    command(teller, node, "k8r-agent status")
    command(teller, node, "k8r-agent events --last 0")
    if kubernetes:
        teller.chapter(f"The cluster, now Kubernetes {STAND_IN} (a stand-in: {VERSION} built under the next number)")
        command(teller, node, f"{members.ADMIN} get nodes -o wide")
    status = Agent(node).status()
    assert {slot["release"] for slot in status["slots"].values()} == {2}, "release 2 on both slots"
    node.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("build", type=Path)
    parser.add_argument("--loader", default=LOADERS[0], choices=LOADERS)
    parser.add_argument("--kubernetes", action="store_true", help="with images that hold it")
    args = parser.parse_args()
    build: Path = args.build.resolve()
    teller, workdir = Teller(), build / "demo"
    shutil.rmtree(workdir, ignore_errors=True)
    lab = Lab(golden.top(build) if args.kubernetes else build, workdir, echo=teller.console)
    try:
        lab.start()
        life(lab, teller, args.loader, args.kubernetes)
        teller.chapter("Done: release 2 on both slots. The console log is in build/demo/demo-1/serial.log")
        return 0
    except (RuntimeError, TimeoutError, AssertionError) as error:
        teller.chapter(f"The demo broke off: {error}")
        for node in lab.nodes:
            node.collect(build / "logs" / "demo")
        teller.say("console, journal and state of the node are in build/logs/demo")
        return 1
    finally:
        lab.stop()


if __name__ == "__main__":
    sys.exit(main())
