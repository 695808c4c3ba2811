"""Snapshots: a node that was switched off, kept with what was seen on its way there, to start others from.

What takes minutes is recorded once for each content of the images and replayed as often as it is needed, also by later
runs. They lie in BUILD/snapshots; a change of the images or of this laboratory's settings makes new ones.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab.disks import DiskImage
from tests.lab.node import Node

DISK, VARIABLES, SEEN = "disk.img", "OVMF_VARS.fd", "seen.json"


@dataclass(frozen=True)
class Snapshot:
    """`seen` is what its maker noted."""

    directory: Path

    @property
    def disk(self) -> DiskImage:
        return DiskImage(self.directory / DISK)

    @property
    def seen(self) -> dict[str, Any]:
        return dict(json.loads((self.directory / SEEN).read_text()))

    def restore_to(self, directory: Path) -> Path:
        """Copies of its disk and variables; the disk's path."""
        directory.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.directory / VARIABLES, directory / VARIABLES)
        return self.disk.copy(directory / DISK).path


class Snapshots:
    def __init__(self, root: Path, *sources: bytes) -> None:
        """`sources`: everything that a snapshot depends on."""
        self._root, self._key = root, hashlib.sha256(b"\0".join(sources)).hexdigest()[:12]

    def get(self, label: str, make: Callable[[], tuple[Node, dict[str, Any]]]) -> Snapshot:
        """The snapshot of that label; whoever asks first makes it, the others wait. `make` returns a node that is off
        and what is worth remembering of it."""
        kept = Snapshot(self._root / f"{label}-{self._key}")
        with self._locked(label):
            if not (kept.directory / SEEN).exists():
                self._drop(label)
                self._keep(kept.directory, *make())
        return kept

    def _drop(self, label: str) -> None:
        """Those of other contents, and what a killed run left."""
        for old in self._root.glob(f"{label}-????????????"):
            shutil.rmtree(old)

    @staticmethod
    def _keep(directory: Path, node: Node, seen: dict[str, Any]) -> None:
        assert node.qemu is None
        directory.mkdir(parents=True)
        node.disk.copy(directory / DISK)
        shutil.copyfile(node.variables, directory / VARIABLES)
        (directory / SEEN).write_text(json.dumps(seen))

    @contextmanager
    def _locked(self, label: str) -> Iterator[None]:
        self._root.mkdir(parents=True, exist_ok=True)
        with (self._root / f"{label}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
