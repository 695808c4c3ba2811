"""StateFiles in memory, with what a power cut can do to it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from k8r_agent.effects.statefiles import _HINTS, TMP, StateDirectory

_REAL = StateDirectory(mounted=lambda path: True)  # in whose words an OSError is told


def nowhere(point: str) -> None:
    """A `point` that never crashes."""


class FakeStateFiles:
    """`live` is what a reader sees, `medium` what a power cut cannot take.

    `point(name)` is called at every instant where it matters to die: `files:<name>:before`, `:tmp` (the temporary
    file is durable, the name is still old), `:replaced` (visible, not durable), `:written` (append: visible, not
    durable), `:unlinked`, `:after` (durable). It may raise; then either go on with the same object (the process
    died, the kernel lives) or call power_cut() first. An OSError of it is told as the real files tell it.
    """

    def __init__(self, *, point: Callable[[str], None] = nowhere, on_partition: bool = True) -> None:
        self.point = point
        self.live: dict[str, bytes] = {}
        self.medium: dict[str, bytes] = {}
        self.growing: set[str] = set()  # written to in place: a part may arrive
        self.on_partition = on_partition  # False: files live in RAM, a power cut takes all of them
        self.fault: int = 0  # an errno that every writing call raises: ENOSPC, EROFS, EIO
        self.writes = 0

    # the port
    def persistent(self) -> bool:
        return self.on_partition

    def trouble(self) -> tuple[str, str]:
        said = {errno.ENOSPC: "the state partition is full", errno.EROFS: "the state partition is read-only"}
        return (said[self.fault], _HINTS[self.fault]) if self.fault in said else ("", "")

    def read(self, name: str) -> bytes | None:
        _check(name)
        return self.live.get(name)

    def write(self, name: str, data: bytes) -> None:
        with _REAL._explained("write", name):
            self._begin(name)
            self.point(f"files:{name}:before")
            self.point(f"files:{name}:tmp")
            self.live[name] = bytes(data)
            self.growing.discard(name)
            self.point(f"files:{name}:replaced")
            self._sync(name)

    def append(self, name: str, data: bytes) -> None:
        with _REAL._explained("append to", name):
            self._begin(name)
            self.point(f"files:{name}:before")
            self.live[name] = self.live.get(name, b"") + data
            self.growing.add(name)
            self.point(f"files:{name}:written")
            self._sync(name)

    def remove(self, name: str) -> None:
        _check(name)
        if name not in self.live:
            return
        with _REAL._explained("remove", name):
            self._begin(name)
            self.point(f"files:{name}:before")
            del self.live[name]
            self.point(f"files:{name}:unlinked")
            self._sync(name)

    def names(self, directory: str) -> tuple[str, ...]:
        prefix = directory + "/" if directory else ""
        if prefix:
            _check(directory)
        return tuple(sorted({n[len(prefix):].split("/")[0] for n in self.live if n.startswith(prefix)}))

    # what happens to it
    def power_cut(self, keep: float = 0.0) -> None:
        """Lose what was not durable. `keep`: 0 nothing of it had reached the medium, 1 all of it had, in between
        a part of an append (a replaced or removed file is never in between)."""
        if not self.on_partition:
            self.medium = {}
        else:
            for name in sorted(set(self.live) | set(self.medium)):
                old, new = self.medium.get(name), self.live.get(name)
                if old == new:
                    continue
                if name in self.growing and new is not None and new.startswith(old or b"") and keep < 1:
                    arrived = len(old or b"") + int((len(new) - len(old or b"")) * keep)
                    if arrived:
                        self.medium[name] = new[:arrived]
                elif keep >= 1:
                    if new is None:
                        del self.medium[name]
                    else:
                        self.medium[name] = new
        self.live = dict(self.medium)
        self.growing.clear()

    def _begin(self, name: str) -> None:
        _check(name)
        self.writes += 1
        if self.fault:
            raise OSError(self.fault, os.strerror(self.fault))

    def _sync(self, name: str) -> None:
        if name in self.live:
            self.medium[name] = self.live[name]
        else:
            self.medium.pop(name, None)
        self.point(f"files:{name}:after")


def _check(name: str) -> None:
    if any(p in ("", ".", "..") or "\0" in p for p in name.split("/")) or name.endswith(TMP):
        raise ValueError(f"not a relative path of plain names: {name!r}")
