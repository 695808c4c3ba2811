"""One transaction at a time: an flock, which the kernel drops when its holder dies. No pid is ever trusted."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from k8r_agent.errors import Busy, StateError

PATH = Path("/run/k8r/lock")
_LOOK = 0.1  # seconds between looks


class Held:
    """A lock in somebody's hand."""

    def __init__(self, fd: int, holder: str) -> None:
        self._fd, self._holder = fd, holder
        self._name()

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Whoever wants it may have it meanwhile. Ends when it is back: look at the world again then."""
        os.ftruncate(self._fd, 0)
        fcntl.flock(self._fd, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            self._name()

    def _name(self) -> None:
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{self._holder}\n".encode(), 0)


class Lock:
    def __init__(self, path: Path = PATH) -> None:
        self._path = path

    @contextmanager
    def hold(self, holder: str, *, wait: float = 0.0) -> Iterator[Held]:
        """`holder` is what others are told, e.g. `update (pid 123)`. Raises Busy naming the present holder, after
        `wait` seconds."""
        try:
            self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            os.fchmod(fd, 0o600)  # whoever may open it, if only to read, may hold it for ever
        except OSError as error:
            raise StateError(f"cannot open {self._path}", why=error.strerror or str(error)) from error
        try:
            self._take(fd, time.monotonic() + wait)
            try:
                yield Held(fd, holder)
            finally:
                os.ftruncate(fd, 0)
        finally:
            os.close(fd)

    def _take(self, fd: int, until: float) -> None:
        while True:
            try:
                return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise Busy("another operation is running", why=self.holder() or "its holder left no name",
                               hint="follow it with `k8r-agent task watch`") from None
            time.sleep(_LOOK)

    def holder(self) -> str:
        """Text of the present holder, "" when free. It may be stale by the time it is read: for messages only."""
        try:
            return self._path.read_text(errors="replace").strip()[:200]
        except OSError:
            return ""
