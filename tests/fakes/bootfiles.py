"""A FAT boot partition in memory, with a write cache that a power cut empties in any order.

A pending write is one *atomic* change of the medium. What Linux' vfat does in several sectors is several changes, so
that a cut can leave any subset of them; what one flush orders is flushed. Crash points: `boot:<path>:<moment>`; an
OSError there is told as the real files tell it.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterable, Iterator

from k8r_agent.effects.bootfiles import MountedBootFiles
from k8r_agent.errors import BootError
from k8r_agent.model.boot import Content
from k8r_agent.ports.bootfiles import SECTOR

TEMPORARY = "k8r.tmp"
CLUSTER = 4096
_REAL = MountedBootFiles()  # in whose words an OSError is told


def nowhere(name: str) -> None:
    pass


class FakeBootFiles:
    """`medium` is what survives, `live` what the running system sees. Deep copies are independent partitions."""

    def __init__(self, files: dict[str, bytes] | None = None, *, size: int = 256 << 20,
                 point: Callable[[str], None] = nowhere) -> None:
        self.medium: dict[str, bytes] = dict(files or {})
        self.live: dict[str, bytes] = dict(self.medium)
        self.pending: list[tuple[str, bytes | None]] = []
        self.size, self.point = size, point
        self.depth = 0
        self.rot: dict[str, bytes] = {}  # path → what the medium will really return

    # the port

    @contextlib.contextmanager
    def writable(self) -> Iterator[None]:
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1

    def read(self, path: str) -> bytes | None:
        return self.rot.get(path, self.live.get(path))

    def pieces(self, path: str) -> Iterator[bytes]:
        data = self.read(path)
        if data is None:
            raise BootError(f"{path} is not on the boot partition")
        for at in range(0, len(data), CLUSTER):
            yield data[at:at + CLUSTER]

    def content(self, path: str) -> Content | None:
        data = self.read(path)
        return None if data is None else Content.of([data])

    def names(self, directory: str) -> tuple[str, ...]:
        prefix = f"{directory}/" if directory else ""
        return tuple(sorted({path[len(prefix):].split("/")[0] for path in self.live if path.startswith(prefix)}))

    def write_sector(self, path: str, data: bytes) -> None:
        assert self.depth, f"{path}: the partition is read-only"
        assert len(data) == SECTOR
        if len(self.live.get(path, b"")) != SECTOR:
            raise BootError(f"{path} is not a file of one sector")
        with _REAL._complaint("write", path):
            self.point(f"boot:{path}:sector-before")
            self._change(path, data)
            self.point(f"boot:{path}:sector-cached")
            self._flush()
            self.point(f"boot:{path}:sector-after")

    def put(self, path: str, data: bytes) -> None:
        assert self.depth, f"{path}: the partition is read-only"
        temporary = f"{path.rpartition('/')[0]}/{TEMPORARY}"
        with _REAL._complaint("write", path):
            self.point(f"boot:{path}:put-before")
            if temporary in self.live:
                self._change(temporary, None)
            fits = _clusters(data) <= self.free()
            self._change(temporary, data[:min(len(data) // 2, self.free())])
            self.point(f"boot:{path}:put-half")
            if not fits:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._change(temporary, data)
            self.point(f"boot:{path}:put-cached")
            self._flush()
            self.point(f"boot:{path}:put-temporary")
            if path in self.live:  # RENAME_EXCHANGE: the target is never absent
                self._change(path, data)
                self.point(f"boot:{path}:put-exchanged")
                self._flush()
                self._change(temporary, None)
            else:  # a rename: the new name may be lost, the old one gone
                self._change(temporary, None)
                self._change(path, data)
            self.point(f"boot:{path}:put-renamed")
            self._flush()
            self.point(f"boot:{path}:put-after")

    def put_pieces(self, path: str, pieces: Iterable[bytes]) -> Content:
        data = b"".join(pieces)
        self.put(path, data)
        return Content.of([data])

    def rename(self, old: str, new: str) -> None:
        assert self.depth, f"{old}: the partition is read-only"
        data = self.live[old]
        with _REAL._complaint("rename", old):
            self.point(f"boot:{old}:rename-before")
            self._change(old, None)
            self._change(new, data)
            self.point(f"boot:{old}:rename-cached")
            self._flush()
            self.point(f"boot:{old}:rename-after")

    def remove(self, path: str) -> None:
        assert self.depth, f"{path}: the partition is read-only"
        gone = [name for name in self.live if path in (name, name.rpartition("/")[0])]
        if not gone:
            return
        with _REAL._complaint("remove", path):
            self.point(f"boot:{path}:remove-before")
            for name in gone:
                self._change(name, None)
                self.point(f"boot:{path}:remove-cached")
            self._flush()
            self.point(f"boot:{path}:remove-after")

    def sizes(self, directory: str) -> tuple[int, ...]:
        return tuple(len(data) for path, data in self.live.items() if directory in (path, path.rpartition("/")[0]))

    def free(self) -> int:
        return self.size - self._used()

    # below

    def _change(self, path: str, data: bytes | None) -> None:
        self.pending.append((path, data))
        _apply(self.live, path, data)

    def _flush(self) -> None:
        for path, data in self.pending:
            _apply(self.medium, path, data)
        self.pending.clear()

    def _used(self) -> int:
        return sum(_clusters(data) for data in self.live.values())

    def power_cut(self, keep: Callable[[int], bool] = lambda number: False) -> None:
        """`keep(i)` says whether the i-th change that was not flushed reached the medium all the same."""
        for number, (path, data) in enumerate(self.pending):
            if keep(number):
                _apply(self.medium, path, data)
        self.pending.clear()
        self.live, self.depth = dict(self.medium), 0


def _clusters(data: bytes) -> int:
    """Bytes that it takes."""
    return -(-len(data) // CLUSTER) * CLUSTER


def _apply(files: dict[str, bytes], path: str, data: bytes | None) -> None:
    if data is None:
        files.pop(path, None)
    else:
        files[path] = data
