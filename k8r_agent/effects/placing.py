"""Small files of the running system, replaced as a whole."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

_NONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)  # nothing there; a link; a socket


def read(path: Path) -> bytes | None:
    """None when there is no such file: a directory is none. Raises OSError."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


@contextlib.contextmanager
def _directory(top: Path, parts: Sequence[str]) -> Iterator[int]:
    """A descriptor of the directory `parts` below `top`; no link below `top` is followed."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    fd = os.open(top, flags)
    try:
        for part in parts:
            below = os.open(part, flags | os.O_NOFOLLOW, dir_fd=fd)
            os.close(fd)
            fd = below
        yield fd
    finally:
        os.close(fd)


def read_within(top: Path, path: Path, *, limit: int) -> tuple[bytes, int] | None:
    """At most `limit` bytes of a regular file, and its mode. Whoever may write below `top` may exchange anything there
    at any moment: no link below it is followed, a pipe is not waited for. None when it is no such file. Raises
    OSError."""
    *above, leaf = path.relative_to(top).parts
    try:
        with _directory(top, above) as parent:
            fd = os.open(leaf, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
    except OSError as error:
        if error.errno not in _NONE:
            raise
        return None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return None
        with open(fd, "rb", closefd=False) as file:
            return file.read(limit), status.st_mode
    finally:
        os.close(fd)


def taken_out(top: Path, path: Path) -> bool:
    """Whether the directory of `path` is there and has no such regular file. False where the directory itself is not
    there or cannot be looked into: then it may only not be mounted. Links as in read_within()."""
    *above, leaf = path.relative_to(top).parts
    try:
        with _directory(top, above) as parent:  # held open: what is below it cannot be unmounted between the two looks
            try:
                return not stat.S_ISREG(os.stat(leaf, dir_fd=parent, follow_symlinks=False).st_mode)
            except FileNotFoundError:
                return True
    except OSError:
        return False


def place(path: Path, data: bytes, *, mode: int = 0o644, owner: tuple[int, int] | None = None,
          keep_owner: bool = False) -> bool:
    """Durable and all at once, with that mode whatever the umask. False when nothing had to change.

    `keep_owner`: as the file it replaces (shadow belongs to a group whose number is the distribution's).
    """
    before = path.stat() if path.exists() else None
    if before is not None and read(path) == data and before.st_mode & 0o777 == mode:
        return False
    if keep_owner and before is not None:
        owner, mode = (before.st_uid, before.st_gid), before.st_mode & 0o777
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.k8r")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(data)
            if owner is not None and os.geteuid() == 0:
                os.fchown(file.fileno(), *owner)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    return True
