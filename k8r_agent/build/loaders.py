"""The loader programs. They travel inside the image, so that a disk is made of a bundle and nothing of the host."""

from __future__ import annotations

import shutil
from pathlib import Path

from k8r_agent.effects.commands import FullCommands
from k8r_agent.errors import BuildError, CommandFailed

EFI_NAME = "BOOTX64.EFI"
_SD_BOOT = "usr/lib/systemd/boot/efi/systemd-bootx64.efi"


def place(loader: str) -> str:
    """Where a loader lies in the image, relative to its root."""
    return f"usr/lib/k8r/loader/{loader}/{EFI_NAME}"


def put_into(tree: Path, loader: str, *, work: Path, commands: FullCommands) -> None:
    """Raises BuildError when the loader's package is missing."""
    target = tree / place(loader)
    target.parent.mkdir(parents=True, exist_ok=True)
    if loader == "systemd-boot":
        source = tree / _SD_BOOT
        if not source.is_file():
            raise BuildError("the image has no systemd-boot", why=f"/{_SD_BOOT} is missing")
        shutil.copyfile(source, target)
    else:
        make_grub(target, work=work, commands=commands)
    target.chmod(0o644)


def make_grub(target: Path, *, work: Path, commands: FullCommands) -> None:
    """One EFI program that holds its modules and the early configuration, which finds the boot partition."""
    raise NotImplementedError


def take_from(image: Path, offset: int, loader: str, target: Path, commands: FullCommands) -> None:
    """Read the loader out of an image (at `offset` bytes in a file), without mounting it. Raises BuildError."""
    target.unlink(missing_ok=True)
    where = f"{image}?offset={offset}" if offset else str(image)
    try:
        commands.run(["debugfs", "-R", f"dump /{place(loader)} {target}", where])
    except CommandFailed as error:
        raise BuildError(f"the image of this bundle could not be read for its {loader}", why=error.why) from None
    if not target.is_file() or not target.stat().st_size:
        raise BuildError(f"the image of this bundle has no {loader}",
                         hint=f"build it with --loader {loader}, or give --efi FILE")
