"""A golden image under systemd-nspawn: its own systemd, D-Bus, logind and sshd, but the kernel of this machine.

The tree is never changed (an overlay in RAM lies over it); what a boot observes it leaves in a directory as JSON.
K8R_TREE names a directory to use instead of the image slot of build/release-1. One at a time: two that do not
register share a control group, and their systemds get in each other's way.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
IMAGE = ROOT / "build/release-1/image.img"
INSIDE = Path(__file__).with_name("inside.py")
FACTS = {"slot": "working", "disk": "vda", "bootpart": "none", "rootpart": "vda3", "statepart": "vda4",
         "state": "mounted", "duplicate": "no", "loader": "systemd-boot", "watchdog": "none"}
UNIT = """[Unit]
Description=Look around
DefaultDependencies=no
After=multi-user.target boot-complete.target k8r-health.service
SuccessAction=poweroff
FailureAction=poweroff
[Service]
Type=oneshot
ExecStart=/usr/bin/python3 /k8r-test/inside.py
TimeoutStartSec=90
"""
# A network as far as the health check looks: an interface with a default route.
LINK = """[Unit]
DefaultDependencies=no
Before=network.target
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'ip link set lo up; ip route add default dev lo'
"""


@contextlib.contextmanager
def golden_tree() -> Iterator[Path]:
    """The root of the golden image, read-only in effect."""
    if given := os.environ.get("K8R_TREE"):
        yield Path(given)
        return
    assert IMAGE.exists(), f"{IMAGE} is missing: make images"
    where = Path(f"/run/k8r-test-{os.getpid()}")
    where.mkdir()
    try:
        subprocess.run(["mount", "-o", "loop,ro,noload", str(IMAGE), str(where)], check=True)
        try:
            yield where
        finally:
            subprocess.run(["umount", str(where)], check=True)
    finally:
        where.rmdir()


@dataclass
class Container:
    """One node's life: `state` stays between boots, the system does not (every boot is of a fresh copy)."""

    tree: Path
    base: Path
    facts: Mapping[str, str] = field(default_factory=lambda: dict(FACTS))
    toml: str = ""
    binds: tuple[str, ...] = ()
    seconds: float = 0.0
    inside: Path = INSIDE
    arguments: tuple[str, ...] = ()  # of the kernel command line

    def boot(self, *looks: str, timeout: float = 100) -> dict[str, Any]:
        """Boot, run the named looks of inside.py, power off; returns what they saw."""
        started = time.monotonic()
        process = self.start("systemd.unit=multi-user.target", "systemd.wants=k8r-test.service",
                             "systemd.wants=k8r-test-link.service", *self.arguments, looks=looks)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            process.wait(20)
            raise AssertionError(self._console()) from None
        self.seconds = time.monotonic() - started
        out = self.base / "shared/out.json"
        assert out.exists(), self._console()
        seen: dict[str, Any] = json.loads(out.read_text())
        return seen

    def start(self, *cmdline: str, looks: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        """What the kernel command line would say goes to systemd as arguments."""
        command = ["systemd-nspawn", "-q", "-b", "--register=no", "--keep-unit", "--private-network",
                   "--volatile=overlay", "--console=pipe", "-D", str(self.tree), *self._prepare(looks),
                   *[f"--bind-ro={bind}" for bind in self.binds], *cmdline]
        with (self.base / "console").open("wb") as console:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=console)

    def _console(self) -> str:
        return (self.base / "console").read_text(errors="replace")[-3000:]

    def _prepare(self, looks: tuple[str, ...]) -> list[str]:
        release = os.uname().release
        shared, state, boot, modules = (self.base / name for name in ("shared", "state", "boot", "modules"))
        for directory in (shared, boot, modules):
            directory.mkdir(exist_ok=True)
        state.mkdir(mode=0o700, exist_ok=True)
        (shared / "out.json").unlink(missing_ok=True)
        (shared / "looks").write_text(" ".join(looks))
        (shared / "inside.py").write_text(self.inside.read_text())
        (shared / "k8r-test.service").write_text(UNIT)
        (shared / "k8r-test-link.service").write_text(LINK)
        (shared / "facts").write_text("".join(f"{key}={value}\n" for key, value in self.facts.items()))
        (modules / "modules.dep").write_text("")
        (boot / "k8r.toml").write_text(self.toml)
        units = [f"--bind-ro={shared / name}:/etc/systemd/system/{name}"
                 for name in ("k8r-test.service", "k8r-test-link.service")]
        mounted = [f"--bind={state}:/var/lib/k8r"] if self.facts["state"] == "mounted" else []
        return [f"--bind={shared}:/k8r-test", f"--bind-ro={shared / 'facts'}:/run/k8r/boot",
                f"--bind-ro={modules}:/lib/modules/{release}", f"--bind-ro={boot}:/boot/firmware", *units, *mounted]
