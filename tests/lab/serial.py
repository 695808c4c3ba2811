"""A node's serial console: kept in a file with times, watched for milestones."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

ESCAPES = re.compile(r"\x1b(\[[0-9;?=]*[ -/]*[@-~]|[()][A-Z0-9]|[=>78cM])|[\x00-\x08\x0b-\x1f\x7f]")
MILESTONES = {
    "firmware": re.compile(r"BdsDxe: (starting|loading)"),
    "kernel": re.compile(r"Linux version \d"),
    "loader": re.compile(r"Welcome to GRUB|^k8r: (image|working)/"),
    "initramfs": re.compile(r"Begin: (Loading essential drivers|Mounting root)|k8r: slot "),
    "systemd": re.compile(r"Welcome to (?!GRUB)|systemd\[1\]: systemd \d+"),
    "ssh": re.compile(r"Started .*ssh\.service|Started .*OpenBSD Secure Shell"),
    "login": re.compile(r"login:"),
    "panic": re.compile(r"Kernel panic|end Kernel panic"),
    "reboot": re.compile(r"reboot: (Restarting|machine restart|Power down)"),
}


class Serial:
    """Reads the standard output of a QEMU, and of those that take over from it, each in a thread until it ends."""

    def __init__(self, log: Path, *, echo: Callable[[str], None] | None = None) -> None:
        self._log, self._echo = log, echo
        self._start = time.monotonic()
        self._changed = threading.Condition()
        self.lines: list[tuple[float, str]] = []
        self.milestones: list[tuple[float, str]] = []
        self._thread: threading.Thread | None = None

    def attach(self, stream: IO[bytes], what: str) -> None:
        self._thread = threading.Thread(target=self._read, args=(stream, what), name="serial", daemon=True)
        self._thread.start()

    def _read(self, stream: IO[bytes], what: str) -> None:
        pending = b""
        with self._log.open("a", encoding="utf-8") as log:
            self._line(f"--- {what} {time.strftime('%H:%M:%S')}", log)
            while data := stream.read1(65536):  # type: ignore[attr-defined]
                *lines, pending = (pending + data).replace(b"\r", b"\n").split(b"\n")
                for line in lines:
                    self._line(ESCAPES.sub("", line.decode("utf-8", "replace")).strip(), log)
                if b"login:" in pending:
                    self._line(pending.decode("utf-8", "replace").strip(), log)
                    pending = b""
                log.flush()

    def _line(self, text: str, log: IO[str]) -> None:
        if not text:
            return
        now = time.monotonic() - self._start
        mark = next((name for name, seen in MILESTONES.items() if seen.search(text)), "")
        log.write(f"[{now:8.2f}] {text}\n")
        with self._changed:
            self.lines.append((now, text))
            if mark and (not self.milestones or self.milestones[-1][1] != mark):
                self.milestones.append((now, mark))
                log.write(f"[{now:8.2f}] === {mark}\n")
            self._changed.notify_all()
        if self._echo:
            self._echo(text)

    def mark(self) -> int:
        """A place in the log, for wait(after=…)."""
        with self._changed:
            return len(self.lines)

    def wait(self, pattern: str, *, timeout: float, after: int = 0) -> str:
        """The first line from `after` on that matches. Raises TimeoutError."""
        seen, end = re.compile(pattern), time.monotonic() + timeout
        with self._changed:
            while True:
                for _, text in self.lines[after:]:
                    if seen.search(text):
                        return text
                after = len(self.lines)
                left = end - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"not on the console within {timeout:g} s: {pattern}")
                self._changed.wait(left)

    def text(self, after: int = 0) -> str:
        with self._changed:
            return "\n".join(text for _, text in self.lines[after:])

    def join(self) -> None:
        if self._thread:
            self._thread.join(10)
