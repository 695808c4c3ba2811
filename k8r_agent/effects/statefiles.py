"""Small durable files below one directory: the state partition when it is mounted, RAM when it is not."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from k8r_agent.errors import StateError

ROOT = Path("/var/lib/k8r")
VOLATILE = Path("/run/k8r/volatile")
# Of a file that is being written: never listed. Hidden, because a leftover in queue/ must not start the runner again
# and again: DirectoryNotEmpty= of systemd.path(5) sees every file but the hidden ones.
HIDE, TMP = ".", ".tmp"
_ROOM = 256 << 10  # bytes: with less than that a transaction may come to its end anywhere

_HINTS = {
    errno.ENOSPC: "free space on the state partition (kept manifests, old logs below /var/lib/k8r), then try again",
    errno.EDQUOT: "free space on the state partition, then try again",
    errno.EROFS: "the kernel made the state partition read-only, usually after an I/O error: look at "
                 "`journalctl -k`, then reboot (it is checked at boot); if it comes back, replace the disk",
    errno.EIO: "the disk fails: look at `journalctl -k` and replace it; /etc/k8r and the cluster's data are on it",
    errno.EACCES: "the agent's state belongs to root: run this as root",
    errno.EPERM: "the agent's state belongs to root: run this as root",
    errno.ELOOP: "a symbolic link stands where the agent keeps a file: somebody put it there; remove it",
}


def is_mount(path: Path) -> bool:
    """Whether `path` is the root of another file system than its parent directory."""
    try:
        here, above = path.lstat(), path.parent.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(here.st_mode) and here.st_dev != above.st_dev


def _kept_back(directory: Path) -> int:
    """Blocks that ext4 counts as free and gives to nobody's file: up to 16 MiB (linux/fs/ext4: s_resv_clusters)."""
    try:
        device = os.stat(directory).st_dev
        name = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve().name
        return int(Path(f"/sys/fs/ext4/{name}/reserved_clusters").read_text())
    except (OSError, ValueError):
        return 0


class StateDirectory:
    """The port StateFiles on a real directory.

    Which directory is asked anew at every call: the first boot mounts the state partition while the agent runs.
    """

    def __init__(self, root: Path = ROOT, *, volatile: Path = VOLATILE,
                 mounted: Callable[[Path], bool] = is_mount) -> None:
        self._root, self._volatile, self._mounted = root, volatile, mounted

    @property
    def root(self) -> Path:
        """Where files go now."""
        return self._root if self.persistent() else self._volatile

    def persistent(self) -> bool:
        return self._mounted(self._root)

    def trouble(self) -> tuple[str, str]:
        try:
            found = os.statvfs(self.root)
        except FileNotFoundError:
            return "", ""  # the volatile one is made when it is first needed
        except OSError as error:
            return f"{self.root} cannot be looked at: {error.strerror}", _HINTS.get(error.errno or 0, "")
        if found.f_flag & os.ST_RDONLY:
            return "the state partition is read-only", _HINTS[errno.EROFS]
        free = (found.f_bfree - _kept_back(self.root)) * found.f_frsize
        if free < _ROOM or (found.f_files and not found.f_ffree):
            return "the state partition is full", _HINTS[errno.ENOSPC]
        return "", ""

    def read(self, name: str) -> bytes | None:
        with self._explained("read", name):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError), self._parent(name) as (parent, leaf):
                fd = os.open(leaf, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
                with open(fd, "rb") as file:
                    self._assert_ours(fd, name)
                    return file.read()
            return None

    def write(self, name: str, data: bytes) -> None:
        with self._explained("write", name), self._parent(name, create=True) as (parent, leaf):
            temporary = HIDE + leaf + TMP
            try:
                with _opened(parent, temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as fd:
                    _write_all(fd, data)
                    os.fsync(fd)
                os.replace(temporary, leaf, src_dir_fd=parent, dst_dir_fd=parent)
            except OSError:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=parent)
                raise
            os.fsync(parent)

    def append(self, name: str, data: bytes) -> None:
        with self._explained("append to", name), self._parent(name, create=True) as (parent, leaf):
            with _opened(parent, leaf, os.O_WRONLY | os.O_CREAT | os.O_APPEND) as fd:
                before = os.fstat(fd).st_size
                try:
                    _write_all(fd, data)
                except OSError:  # ENOSPC after a part: leave no half line that the next append would continue
                    with contextlib.suppress(OSError):
                        os.ftruncate(fd, before)
                    raise
                os.fsync(fd)
            if before == 0:
                os.fsync(parent)

    def remove(self, name: str) -> None:
        with self._explained("remove", name), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            with self._parent(name) as (parent, leaf):
                try:
                    os.unlink(leaf, dir_fd=parent)
                except (IsADirectoryError, PermissionError):
                    os.rmdir(leaf, dir_fd=parent)  # only an empty one
                os.fsync(parent)

    def names(self, directory: str) -> tuple[str, ...]:
        with self._explained("list", directory):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError), self._directory(_parts(directory)) as fd:
                return tuple(sorted(n for n in os.listdir(fd) if not n.endswith(TMP)))
            return ()

    def _assert_ours(self, fd: int, name: str) -> None:
        """What is read here decides what a node does as root."""
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
            raise StateError(f"{self.root / name} is not read", why="it is no regular file that only root may write",
                             hint=f"look who put it there; if it is in order: chown root: {self.root / name}; "
                                  f"chmod 0600 {self.root / name}")

    @contextlib.contextmanager
    def _parent(self, name: str, *, create: bool = False) -> Iterator[tuple[int, str]]:
        *above, leaf = _parts(name)
        if leaf.endswith(TMP):
            raise ValueError(f"{name!r}: the suffix {TMP} is taken")
        with self._directory(above, create=create) as fd:
            yield fd, leaf

    @contextlib.contextmanager
    def _directory(self, parts: list[str], *, create: bool = False) -> Iterator[int]:
        """Walk down one component at a time, so that no link below the root is ever followed."""
        root = self.root
        if create and root == self._volatile:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(root, flags)
        try:
            for part in parts:
                if create:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, 0o700, dir_fd=fd)
                        os.fsync(fd)
                below = os.open(part, flags, dir_fd=fd)
                os.close(fd)
                fd = below
            yield fd
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def _explained(self, verb: str, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            hint = _HINTS.get(error.errno or 0, "")
            raise StateError(f"cannot {verb} {self.root / name}", why=error.strerror or str(error),
                             hint=hint) from error


def _parts(name: str) -> list[str]:
    parts = name.split("/") if name else []
    if any(p in ("", ".", "..") or "\0" in p for p in parts):
        raise ValueError(f"not a relative path of plain names: {name!r}")
    return parts


@contextlib.contextmanager
def _opened(parent: int, leaf: str, flags: int) -> Iterator[int]:
    fd = os.open(leaf, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent)
    try:
        yield fd
    finally:
        os.close(fd)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view):]
