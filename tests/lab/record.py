"""Record what a node writes in its life, to be taken apart without it (tests/lab/sectors.py, tests/lab/reboots.py).

    python3 -m tests.lab.record BUILD systemd-boot gpt     # first boot, update, reinstall, every boot operation
    python3 -m tests.lab.record BUILD systemd-boot dos     # the first boot only: another kind of partition table

leaves BUILD/record/LOADER-TABLE/: the flashed disk, the log of all writes, and the digests of the kernels. Between
the boot operations at the end the guest writes marks into the gap between the partition table and partition 1.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import shutil
import sys
import time
from pathlib import Path

from tests.lab import operations
from tests.lab.images import RELEASES
from tests.lab.node import Node
from tests.lab.past import FIRST_BOOT, REINSTALL, UPDATE, wait_complete
from tests.lab.site import Lab


def say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")


def live(lab: Lab, node: Node, table: str) -> None:
    agent = lab.agent(node)
    node.start()
    agent.wait_idle("first-boot", timeout=FIRST_BOOT)
    wait_complete(node)
    say("first boot done")
    if table == "gpt":
        node.ssh(f"k8r-agent update {lab.url(2)} --no-wait")
        agent.wait_idle("update", timeout=UPDATE)
        say("update done")
        node.ssh("k8r-agent reinstall --yes --no-wait")
        agent.wait_idle("reinstall", timeout=REINSTALL)
        wait_complete(node)
        say("reinstall done")
        node.ssh("/usr/bin/python3 -", stdin=inspect.getsource(operations).encode(), timeout=300)
        say("boot operations done")
    node.stop()


def digests(build: Path) -> dict[str, str]:
    """sha256 of each kernel and initrd that the bundles bring → its name and the releases that bring it."""
    found: dict[str, str] = {}
    for release in RELEASES:
        boot = build / f"release-{release}" / "boot"
        for name in ("vmlinuz", "initrd.img"):
            digest = hashlib.sha256((boot / name).read_bytes()).hexdigest()
            found[digest] = f"{found[digest]}/{release}" if digest in found else f"{name} {release}"
    return found


def record(build: Path, loader: str, table: str) -> Path:
    out = build / "record" / f"{loader}-{table}"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    lab = Lab(build, out / "lab")
    try:
        lab.start()
        disk = lab.flash("recorded", loader=loader, table=table)
        lab.node("flashed", disk).disk.copy(out / "start.img")
        node = lab.node("recorded", disk, log=out / "disk.log")
        live(lab, node, table)
        shutil.copyfile(node.console, out / "console.log")
        shutil.copyfile(node.variables, out / "OVMF_VARS.fd")
    finally:
        lab.stop()
    (out / "digests.json").write_text(json.dumps(digests(build), indent=1) + "\n")
    shutil.rmtree(out / "lab")
    return out


if __name__ == "__main__":
    say(f"recorded in {record(Path(sys.argv[1]).resolve(), sys.argv[2], sys.argv[3])}")
