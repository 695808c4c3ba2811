"""What every virtual node starts from: a signing key, releases 1 and 2, and disks to flash.

Run as a program it makes them: python3 -m tests.lab.images BUILD_DIRECTORY
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
RELEASES = {1: "2026.11.1", 2: "2026.11.2"}
LOADERS = ("systemd-boot", "grub")
DISKS = ((1, "systemd-boot", "gpt"), (1, "grub", "gpt"), (1, "systemd-boot", "dos"))
# On a busy host an emulated TSC looks unstable, and the kernel would turn to clocks that cost a trap for each look.
CONSOLE = "console=tty0 console=ttyS0,115200 tsc=reliable"
# A third of the modules of linux-image-amd64: its initrd boots in half the time where every instruction is emulated.
# But it knows no hardware watchdog.
CLOUD_KERNEL = "linux-image-cloud-amd64"
KERNEL = os.environ.get("K8R_KERNEL", CLOUD_KERNEL)


def signing_key(build: Path) -> Path:
    return build / "keys" / "release"


def bundle_of(build: Path, release: int) -> Path:
    return build / f"release-{release}" / "bundle"


def disk_of(build: Path, release: int, loader: str, table: str = "gpt") -> Path:
    suffix = "" if table == "gpt" else f"-{table}"
    return build / f"release-{release}" / f"disk-{loader}{suffix}.img"


def tool(*arguments: str) -> None:
    subprocess.run(["/usr/bin/python3", "-m", "k8r_agent.build", *arguments], cwd=ROOT, check=True,
                   stdin=subprocess.DEVNULL)


def build_release(build: Path, release: int, *, out: Path | None = None, cmdline: str = CONSOLE) -> None:
    debs = [f"--deb={deb}" for deb in sorted((build / "debs").glob("k8r-agent_*.deb"))]
    assert debs, "no package: make deb"
    tool("build", f"--release={release}", f"--version={RELEASES.get(release, str(release))}", *debs,
         *[f"--loader={loader}" for loader in LOADERS], f"--kernel={KERNEL}", f"--cmdline={cmdline}",
         f"--sign-key={signing_key(build)}", "--level=3", f"--cache={build / 'cache' / 'apt'}",
         f"--out={out or build / f'release-{release}'}")


def make(build: Path) -> None:
    if not signing_key(build).exists():
        tool("keygen", str(signing_key(build)), "--principal=lab")
    for release in RELEASES:
        build_release(build, release)
    for release, loader, table in DISKS:
        tool("disk", f"--bundle={bundle_of(build, release)}", f"--loader={loader}", f"--table={table}",
             f"--signers={signing_key(build)}.allowed_signers",
             f"--out={disk_of(build, release, loader, table)}")


def main() -> None:
    started = time.monotonic()
    make(Path(sys.argv[1]).resolve())
    sys.stderr.write(f"images ready after {time.monotonic() - started:.0f} s\n")


if __name__ == "__main__":
    main()
