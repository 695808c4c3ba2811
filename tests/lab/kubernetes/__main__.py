"""Make what is not made yet, and say where it is: python3 -m tests.lab.kubernetes"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import time

from tests.lab.kubernetes import (
    VERSIONS,
    archives,
    compile,
    debs,
    home,
    images_of,
    is_packed,
    packages_of,
    packed,
    programs,
)


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


def prune() -> None:
    """A gigabyte each: of other recipes only the newest stays, for a second checkout."""
    for kind, own in (("programs", programs()), ("packed", packed())):
        others = [path for path in home().glob(f"{kind}-*") if path != own]
        for path in sorted(others, key=lambda path: path.stat().st_mtime)[:-1]:
            shutil.rmtree(path)


def main() -> None:
    started = time.monotonic()
    os.nice(max(0, 10 - os.nice(0)))  # minutes of every core: let others work beside it
    home().mkdir(parents=True, exist_ok=True)
    with (home() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not programs().exists():
            compile.build(programs(), VERSIONS, home() / "work")
        if not is_packed():
            pack()
        prune()
    sys.stderr.write(f"kubernetes: ready after {time.monotonic() - started:.0f} s: {home()}\n")


if __name__ == "__main__":
    main()
