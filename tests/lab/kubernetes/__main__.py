"""Make what is not made yet, and say where it is.

    python3 -m tests.lab.kubernetes            # everything: packages and container images, for virtual nodes
    python3 -m tests.lab.kubernetes kubeadm    # kubeadm alone, for its contract
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import time
from pathlib import Path

from tests.lab.kubernetes import (
    VERSIONS,
    archives,
    compile,
    debs,
    has_kubeadm,
    home,
    images_of,
    is_packed,
    kubeadms,
    packages_of,
    packed,
    programs,
)
from tests.lab.kubernetes.fetch import Mirror


def pack() -> None:
    work = home() / "work-packed"
    for path in (work, packed()):
        shutil.rmtree(path, ignore_errors=True)
    parts = archives.Parts.make(work)
    for version in VERSIONS:
        for package in debs.of_version(version):
            debs.write(package, packages_of(version), work)
        names = archives.names(version)
        for component in archives.COMPONENTS:
            archives.write(component, names[component], version, parts, images_of(version))
    for package in (debs.bridge(), debs.calm()):
        debs.write(package, packed(), work)
    shutil.rmtree(work)
    (packed() / ".done").touch()


def only_kubeadm(into: Path, work: Path) -> None:
    shutil.rmtree(work, ignore_errors=True)
    made = work / "made"
    made.mkdir(parents=True)
    tree = compile.Tree(work, Mirror(work / "apt"))
    for version in VERSIONS:
        tree.program("kubeadm", version, made / version / "kubeadm", work / "build.log")
    made.rename(into)
    shutil.rmtree(work)


def prune() -> None:
    """A gigabyte each: of other recipes only the newest stays, for a second checkout."""
    for kind, own in (("programs", programs()), ("packed", packed()), ("kubeadm", kubeadms())):
        others = [path for path in home().glob(f"{kind}-*") if path != own]
        for path in sorted(others, key=lambda path: path.stat().st_mtime)[:-1]:
            shutil.rmtree(path)


def main(what: str = "everything") -> None:
    started = time.monotonic()
    os.nice(max(0, 10 - os.nice(0)))  # minutes of every core: let others work beside it
    home().mkdir(parents=True, exist_ok=True)
    with (home() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if what == "kubeadm":
            if not has_kubeadm():
                only_kubeadm(kubeadms(), home() / "work-kubeadm")
        else:
            if not programs().exists():
                compile.build(programs(), VERSIONS, home() / "work")
            if not is_packed():
                pack()
        prune()
    sys.stderr.write(f"kubernetes: {what} ready after {time.monotonic() - started:.0f} s: {home()}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
