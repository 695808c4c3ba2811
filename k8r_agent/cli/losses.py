"""What a reinstall takes away, measured on the running working slot, and what it keeps."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

BUDGET = 5.0  # seconds for all measuring: a person waits at the prompt
KINDS = (
    ("home directories", ("root", "home/*")),
    ("container images", ("var/lib/containerd", "var/lib/docker", "var/lib/containers", "var/lib/cri-o")),
    ("local volumes", ("var/lib/kubelet/pods", "opt/local-path-provisioner", "mnt/*", "srv")),
    ("logs", ("var/log",)),
    ("added software", ("usr/local", "opt")),
)
KEPT = (
    "the node's identity: machine-id, host name, SSH host keys, users and their authorized keys, network, /etc/k8r",
    "the journal, the event log and everything else on the state partition",
)


@dataclass(frozen=True, kw_only=True)
class Loss:
    """`size` in bytes of disk; `complete` is False when the time did not suffice to see everything."""

    what: str
    paths: tuple[str, ...]
    size: int
    complete: bool


def measure(root: Path, *, budget: float = BUDGET, clock: Callable[[], float] = time.monotonic) -> tuple[Loss, ...]:
    """Only what lies on the root file system: other mounts are not rewritten. Empty places are left out."""
    try:
        device = root.stat().st_dev
    except OSError:
        return ()
    losses = []
    for what, patterns in KINDS:
        found: list[str] = []
        total, complete = 0, True
        deadline = clock() + budget / len(KINDS)  # each kind its share: one large tree must not hide the others
        for path in _existing(root, patterns, device):
            size, whole = _usage(path, device, clock, deadline)
            if size:
                found.append("/" + str(path.relative_to(root)))
                total, complete = total + size, complete and whole
        if found:
            losses.append(Loss(what=what, paths=tuple(found), size=total, complete=complete))
    return tuple(losses)


def _existing(root: Path, patterns: tuple[str, ...], device: int) -> Iterator[Path]:
    for pattern in patterns:
        for path in sorted(root.glob(pattern)):
            try:
                if path.is_dir() and not path.is_symlink() and path.stat().st_dev == device:
                    yield path
            except OSError:
                continue


def _usage(top: Path, device: int, clock: Callable[[], float], deadline: float) -> tuple[int, bool]:
    """Bytes of the files below; False when it was cut short."""
    total, stack = 0, [str(top)]
    while stack:
        if clock() >= deadline:
            return total, False
        try:
            with os.scandir(stack.pop()) as entries:
                for entry in entries:
                    status = entry.stat(follow_symlinks=False)
                    if entry.is_dir(follow_symlinks=False):
                        if status.st_dev == device:
                            stack.append(entry.path)
                    else:
                        total += status.st_blocks * 512
        except OSError:
            continue
    return total, True
