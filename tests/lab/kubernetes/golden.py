"""Golden images with the lab's Kubernetes: release 1 with the real version, release 2 with the stand-in for the next.

    python3 -m tests.lab.kubernetes.golden BUILD_DIRECTORY

They lie in BUILD_DIRECTORY/kubernetes, laid out like those without Kubernetes, so that a Lab takes either.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tests.lab import images
from tests.lab.kubernetes import STAND_IN, VERSION, images_of, is_packed, packages_of, packed

RELEASES = {1: VERSION, 2: STAND_IN}
LOADER = "systemd-boot"


def top(build: Path) -> Path:
    return build / "kubernetes"


def build_release(build: Path, release: int) -> None:
    version = RELEASES[release]
    debs = [*sorted((build / "debs").glob("k8r-agent_*.deb")), *sorted(packed().glob("k8r-lab-*.deb"))]
    images.tool("build", f"--release={release}", f"--version=kubernetes-{version}", *(f"--deb={deb}" for deb in debs),
                f"--loader={LOADER}", f"--kernel={images.KERNEL}", f"--cmdline={images.CONSOLE}",
                f"--kubernetes={version}", f"--kubernetes-packages={packages_of(version)}",
                f"--preload={images_of(version)}", f"--sign-key={images.signing_key(top(build))}", "--level=1",
                f"--cache={build / 'cache/apt'}", f"--out={top(build) / f'release-{release}'}")


def make(build: Path) -> None:
    assert is_packed(), "no Kubernetes: make kubernetes"
    key = images.signing_key(top(build))
    if not key.exists():
        images.tool("keygen", str(key), "--principal=lab")
    for release in RELEASES:
        build_release(build, release)
    images.tool("disk", f"--bundle={images.bundle_of(top(build), 1)}", f"--loader={LOADER}",
                f"--signers={key}.allowed_signers", f"--out={images.disk_of(top(build), 1, LOADER)}")


def main() -> None:
    started = time.monotonic()
    make(Path(sys.argv[1]).resolve())
    sys.stderr.write(f"images with Kubernetes ready after {time.monotonic() - started:.0f} s\n")


if __name__ == "__main__":
    main()
