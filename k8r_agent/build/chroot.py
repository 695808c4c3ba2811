"""Programs inside the tree: own mount and process namespaces, so that nothing is left mounted or running."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from k8r_agent.effects.commands import FullCommands
from k8r_agent.errors import BuildError

_DEVICES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))


def unpack(base: Path, tree: Path, commands: FullCommands) -> None:
    tree.mkdir(parents=True)
    commands.run(["tar", "--extract", "--numeric-owner", "--xattrs", "--xattrs-include=*", f"--directory={tree}",
                  f"--file={base}"], timeout=600)
    for name, major, minor in _DEVICES:
        path = tree / "dev" / name
        path.unlink(missing_ok=True)
        os.mknod(path, 0o666 | 0o020000, os.makedev(major, minor))
        path.chmod(0o666)


def inside(tree: Path, argv: Sequence[str], *, epoch: int, log: Path, commands: FullCommands,
           timeout: float = 900.0) -> None:
    """Raises CommandFailed with the end of the log."""
    env = {"SOURCE_DATE_EPOCH": str(epoch), "DEBIAN_FRONTEND": "noninteractive", "DEBCONF_NONINTERACTIVE_SEEN": "true",
           "PYTHONHASHSEED": "0", "TZ": "UTC"}
    commands.run([*_entered(tree), *argv], timeout=timeout, log=log, env=env)


def output(tree: Path, argv: Sequence[str], *, commands: FullCommands, timeout: float = 60.0) -> str:
    """What a program in the tree prints. Raises CommandFailed."""
    return commands.run([*_entered(tree), *argv], timeout=timeout).stdout


def _entered(tree: Path) -> list[str]:
    return ["unshare", "--mount", "--pid", "--ipc", "--net", "--uts", "--fork", "--kill-child", f"--root={tree}",
            "--wd=/", "--mount-proc"]


def install(tree: Path, debs: Sequence[Path], *, epoch: int, log: Path, commands: FullCommands) -> None:
    """The given packages on top of the base, which already holds what they depend on."""
    if not debs:
        return
    place = tree / "tmp/debs"
    place.mkdir()
    for deb in debs:
        shutil.copyfile(deb, place / deb.name)
    with _no_initramfs(tree):
        inside(tree, ["dpkg", "--force-confold", "--install", *(f"/tmp/debs/{deb.name}" for deb in debs)],
               epoch=epoch, log=log, commands=commands)
    shutil.rmtree(place)


@contextlib.contextmanager
def _no_initramfs(tree: Path) -> Iterator[None]:
    """Packages ask for a new initramfs; one is made at the end anyway, and each takes seconds."""
    path = tree / "etc/initramfs-tools/update-initramfs.conf"
    kept = path.read_bytes()
    path.write_bytes(b"update_initramfs=no\n")
    try:
        yield
    finally:
        path.write_bytes(kept)


def kernel_version(tree: Path) -> str:
    """Of the one kernel in the tree. Raises BuildError when there is none, or more than one."""
    found = sorted(path.name.removeprefix("vmlinuz-") for path in (tree / "boot").glob("vmlinuz-*"))
    if len(found) != 1:
        raise BuildError("an image must hold exactly one kernel", why=f"found {', '.join(found) or 'none'}",
                         hint="choose it with --kernel, and no other kernel with --package")
    return found[0]


def make_initramfs(tree: Path, *, epoch: int, log: Path, commands: FullCommands) -> str:
    """Made again as the last thing, over everything that was installed. Returns the kernel version."""
    version = kernel_version(tree)
    (tree / "boot" / f"initrd.img-{version}").unlink(missing_ok=True)
    inside(tree, ["update-initramfs", "-c", "-k", version], epoch=epoch, log=log, commands=commands)
    return version
