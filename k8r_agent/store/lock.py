"""One transaction at a time: an flock, which the kernel drops when its holder dies. No pid is ever trusted."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from k8r_agent.errors import Busy, StateError

PATH = Path("/run/k8r/lock")


class Lock:
    def __init__(self, path: Path = PATH) -> None:
        self._path = path

    @contextmanager
    def hold(self, holder: str) -> Iterator[None]:
        """`holder` is what others are told, e.g. `update (pid 123)`. Raises Busy naming the present holder."""
        try:
            self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            os.fchmod(fd, 0o600)  # whoever may open it, if only to read, may hold it for ever
        except OSError as error:
            raise StateError(f"cannot open {self._path}", why=error.strerror or str(error)) from error
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Busy("another operation is running", why=self.holder() or "its holder left no name",
                           hint="follow it with `k8r-agent task watch`") from None
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{holder}\n".encode(), 0)
            try:
                yield
            finally:
                os.ftruncate(fd, 0)
        finally:
            os.close(fd)

    def holder(self) -> str:
        """Text of the present holder, "" when free. It may be stale by the time it is read: for messages only."""
        try:
            return self._path.read_text(errors="replace").strip()[:200]
        except OSError:
            return ""
