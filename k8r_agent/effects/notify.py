"""Telling systemd how the runner is doing: sd_notify without a library, and a watchdog that a hang really trips."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from k8r_agent.errors import Cancelled
from k8r_agent.model.units import format_duration, format_size

CHANNEL = Path("/run/k8r/progress.json")  # what `task watch` reads


class Notifier:
    """sd_notify(3). Without $NOTIFY_SOCKET every call does nothing; a full or gone socket never hurts the work."""

    def __init__(self, address: str | None = None) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "") if address is None else address

    def send(self, *lines: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as s:
            s.sendto("\n".join(lines).encode(), address)

    def ready(self) -> None:
        self.send("READY=1")

    def stopping(self) -> None:
        self.send("STOPPING=1")

    def status(self, text: str) -> None:
        self.send("STATUS=" + text.replace("\n", " "))

    def watchdog(self) -> None:
        self.send("WATCHDOG=1")

    def extend_timeout(self, seconds: float) -> None:
        """Ask for more time to start, stop or run, for this long from now."""
        self.send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")


def watchdog_interval() -> float:
    """Seconds within which systemd wants to hear from this process; 0 when it does not."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    try:
        return int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6
    except ValueError:
        return 0.0


class Heartbeat:
    """Feeds the watchdog from a thread, but only while the current step is within its own time.

    A step that hangs in the kernel cannot be timed out from Python: then the feeding ends, systemd kills the runner,
    and the restarted one resumes from the journal, with one of the step's tries spent.
    """

    def __init__(self, notifier: Notifier, *, interval: float | None = None) -> None:
        self._notifier = notifier
        self._interval = watchdog_interval() if interval is None else interval
        self._until = float("inf")
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def allow(self, seconds: float) -> None:
        """From now on, for this long."""
        self._until = time.monotonic() + seconds

    def __enter__(self) -> Heartbeat:
        if self._interval > 0:
            self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join()

    def _beat(self) -> None:
        while not self._stop.wait(self._interval / 4):
            if time.monotonic() < self._until:
                self._notifier.watchdog()


class ServiceReporter:
    """The Reporter of the runner: STATUS= for `systemctl status`, a file for `task watch`, and a look for a cancel.

    `prefix` is set by whoever knows which step runs (`reinstall 01J9…: step 6/11 `). The file is replaced at most
    twice a second and is never a record: the journal is.
    """

    def __init__(self, notifier: Notifier | None = None, *, channel: Path | None = CHANNEL,
                 cancelled: Callable[[], bool] = lambda: False, clock: Callable[[], float] = time.monotonic) -> None:
        self.prefix = ""
        self._notifier = notifier or Notifier()
        self._channel, self._cancelled, self._clock = channel, cancelled, clock
        self._text, self._began, self._first, self._last_sent = "", 0.0, 0, float("-inf")

    def status(self, text: str) -> None:
        self._text, self._began, self._last_sent = text, 0.0, float("-inf")
        self._send(self.prefix + text, 0, 0)

    def progress(self, done: int, total: int) -> None:
        now = self._clock()
        if not self._began or done < self._first:
            self._began, self._first = now, done
        finished = total > 0 and done >= total
        if now - self._last_sent < 0.5 and not finished:
            return
        self._last_sent = now
        self._send(f"{self.prefix}{self._text} {self._figures(now, done, total)}", done, total)
        if self._cancelled():
            raise Cancelled("cancelled", why="somebody asked for it", hint="`k8r-agent task retry` runs it again")

    def _figures(self, now: float, done: int, total: int) -> str:
        rate = (done - self._first) / (now - self._began) if now > self._began else 0.0
        share = f"{100 * done // total}%" if total else format_size(done)
        if not rate:
            return share
        left = f", {format_duration((total - done) / rate)} left" if total > done else ""
        return f"{share} ({format_size(rate)}/s{left})"

    def _send(self, text: str, done: int, total: int) -> None:
        self._notifier.send("STATUS=" + text.replace("\n", " "), "WATCHDOG=1")
        if self._channel is None:
            return
        temporary = self._channel.with_suffix(".tmp")
        with contextlib.suppress(OSError):
            temporary.write_text(json.dumps({
                "text": text, "what": self.prefix + self._text, "done": done, "total": total,
                                             "time": time.time()}))
            temporary.replace(self._channel)


class QuietReporter:
    """For commands that have nobody to tell."""

    def status(self, text: str) -> None:
        pass

    def progress(self, done: int, total: int) -> None:
        pass
