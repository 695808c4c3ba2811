"""A FAT boot partition inside a disk image, made without mounting it and the same bytes each time."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from k8r_agent.build.seeds import volume_id
from k8r_agent.effects.commands import FullCommands
from k8r_agent.model.layout import BOOT, LABELS


def set_time(path: Path, epoch: int) -> None:
    os.utime(path, (epoch, epoch))


def make(disk: Path, *, offset: int, size: int, files: Mapping[str, bytes], empty: Iterable[str], seed: object,
         epoch: int, stage: Path, commands: FullCommands) -> None:
    """FAT32 of `size` bytes at `offset` in `disk`, with `files` (path → content) and directories that may be `empty`.
    `stage` is scratch space."""
    env = {"SOURCE_DATE_EPOCH": str(epoch), "TZ": "UTC", "MTOOLSRC": os.devnull, "MTOOLS_SKIP_CHECK": "1"}
    # --invariant fixes the time of the label, and sets an id of its own unless -i comes after it.
    commands.run(["mkfs.vfat", "--invariant", "-F", "32", "-s", "8", "-S", "512", "-n", LABELS[BOOT],
                  "-i", volume_id(seed), "--offset", str(offset // 512), str(disk), str(size // 1024)], env=env)
    image = f"{disk}@@{offset}"
    inside = [*files, *(f"{directory}/file" for directory in empty)]
    directories = sorted({str(parent) for name in inside for parent in PurePosixPath(name).parents} - {"."})
    if directories:
        commands.run(["mmd", "-i", image, *(f"::{name}" for name in directories)], env=env)
    for directory in ("", *directories):
        names = sorted(name for name in files if str(PurePosixPath(name).parent) == (directory or "."))
        sources = []
        for name in names:
            path = stage / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(files[name])
            set_time(path, epoch)
            sources.append(str(path))
        if sources:
            commands.run(["mcopy", "-m", "-i", image, *sources, f"::{directory}/"], env=env, timeout=300)
