"""Files of the image slot, for a system that runs from the working slot.

Mounted in the runner's own mount namespace: nobody else sees it, and a killed agent leaves no mount behind. `noload`,
because replaying the journal of a pristine image would write to it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from k8r_agent.effects.bootfacts import Kernel
from k8r_agent.errors import CommandFailed, Refused, StateError
from k8r_agent.model.layout import Partition
from k8r_agent.ports.commands import Commands

WHERE = Path("/run/k8r/image")
COPIES = Path("/var/cache/k8r/from-image")
IMAGES = "usr/share/k8r/images"  # archives, and `names`: lines of FILE IMAGE (build/preload.py)
OPTIONS = "ro,noload,nodev,nosuid,noexec"
PRELOAD = "/usr/lib/k8r/preload-images"


class MountedImageRoot:
    """The ImageRoot port. `partition` is asked when it is needed."""

    def __init__(self, commands: Commands, partition: Callable[[], Partition], *, where: Path = WHERE,
                 copies: Path = COPIES, kernel: Kernel | None = None) -> None:
        self._commands, self._partition = commands, partition
        self._where, self._copies, self._kernel = where, copies, kernel or Kernel()

    def fetch(self, path: str) -> str:
        target = self._copies / path
        with self._mounted() as root:
            source = root / path
            if source.is_symlink() or not source.is_file():
                raise Refused(f"the image slot holds no /{path}", why="this image cannot upgrade a control plane",
                              hint="build the image with `k8r-image build --kubernetes VERSION`")
            try:
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                temporary = target.with_name(f".{target.name}.new")
                shutil.copyfile(source, temporary)
                temporary.chmod(0o755)
                os.replace(temporary, target)
            except OSError as error:
                raise StateError(f"/{path} cannot be copied out of the image slot", why=error.strerror or str(error),
                                 hint=f"is there room in {self._copies}?") from error
        return str(target)

    def import_images(self) -> None:
        with self._mounted() as root:
            if (root / IMAGES / "names").exists():
                self._commands.run([PRELOAD, str(root / IMAGES)], timeout=3600)

    @contextlib.contextmanager
    def _mounted(self) -> Iterator[Path]:
        device = self._partition().device
        if device is None:
            raise StateError("the kernel does not use the image partition yet", hint="reboot")
        self._where.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._kernel.mounted_at(str(self._where)) is None:
            try:
                self._commands.run(["mount", "-t", "ext4", "-o", OPTIONS, os.fspath(device), os.fspath(self._where)])
            except CommandFailed as error:
                raise StateError(f"cannot mount {device}", why=error.why or str(error)) from error
        try:
            yield self._where
        finally:
            self._commands.run(["umount", os.fspath(self._where)], ok=range(256))
