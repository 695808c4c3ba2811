"""The loader programs. They travel inside the image, so that a disk is made of a bundle and nothing of the host."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from k8r_agent.boot.grubimage import GUARD, LOADER, Program
from k8r_agent.effects.commands import FullCommands
from k8r_agent.errors import BuildError, CommandFailed

SD_BOOT, GRUB, GUARD_NAME = "systemd-boot", "grub", "guard"
_SD_BOOT_FILE = "usr/lib/systemd/boot/efi/systemd-bootx64.efi"
_PROGRAMS: dict[str, Program] = {GRUB: LOADER, GUARD_NAME: GUARD}


def programs(loader: str) -> tuple[str, ...]:
    """What a loader consists of; the first is the loader itself."""
    return (SD_BOOT, GUARD_NAME) if loader == SD_BOOT else (GRUB,)


def place(program: str) -> str:
    """Where a program lies in the image, relative to its root."""
    return f"usr/lib/k8r/loader/{program}.efi"


def put_into(tree: Path, loaders: Sequence[str], *, work: Path, commands: FullCommands) -> None:
    """Raises BuildError when the image has no systemd-boot or the host no GRUB to make programs of."""
    for program in sorted({program for loader in loaders for program in programs(loader)}):
        target = tree / place(program)
        target.parent.mkdir(parents=True, exist_ok=True)
        if program == SD_BOOT:
            if not (tree / _SD_BOOT_FILE).is_file():
                raise BuildError("the image has no systemd-boot", why=f"/{_SD_BOOT_FILE} is missing")
            shutil.copyfile(tree / _SD_BOOT_FILE, target)
        else:
            _make(_PROGRAMS[program], target, work / program, commands)
        target.chmod(0o644)


def _make(program: Program, target: Path, work: Path, commands: FullCommands) -> None:
    work.mkdir(exist_ok=True)
    for name, data in program.files.items():
        (work / name).write_bytes(data)
    try:
        commands.run(program.argv(work=work, output=target), timeout=120)
    except CommandFailed as error:
        raise BuildError("no GRUB program could be made", why=str(error),
                         hint="install grub-common and grub-efi-amd64-bin on this host") from None


def take_from(image: Path, offset: int, program: str, stage: Path, commands: FullCommands) -> bytes:
    """Read a program out of an image (at `offset` bytes in a file), without mounting it. Raises BuildError."""
    target = stage / f"{program}.efi"
    where = f"{image.resolve()}?offset={offset}" if offset else str(image.resolve())  # debugfs runs in `stage`
    try:
        commands.run(["debugfs", "-R", f"dump /{place(program)} {target.name}", where], cwd=stage)
    except CommandFailed as error:
        raise BuildError(f"the image of this bundle could not be read for its {program}", why=error.why) from None
    if not target.is_file() or not target.stat().st_size:
        raise BuildError(f"the image of this bundle has no {program}",
                         hint=f"build it with --loader {program}" if program in (SD_BOOT, GRUB) else "build it anew")
    return target.read_bytes()
