"""Progress for people: one line that redraws itself on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

from k8r_agent.cli import render

REDRAW = 0.2  # seconds, on a terminal
QUIET = 5.0  # seconds between lines without one


class Meter:
    """Bytes a second over the recent past: a median-free moving rate that forgets in about ten seconds."""

    def __init__(self) -> None:
        self.rate = 0.0
        self._at: tuple[float, int] | None = None

    def feed(self, now: float, done: int) -> float:
        if self._at is None or done < self._at[1]:
            self._at, self.rate = (now, done), 0.0
            return 0.0
        passed = now - self._at[0]
        if passed >= 0.5:
            recent = (done - self._at[1]) / passed
            share = min(1.0, passed / 10) if self.rate else 1.0
            self.rate += share * (recent - self.rate)
            self._at = (now, done)
        return self.rate


class ProgressLine:
    """`update()` as often as you like; `end()` before anything else is written to the stream."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic, columns: int = 80) -> None:
        self._stream, self._clock, self._columns = stream, clock, columns
        self.terminal = stream.isatty()
        self._meter = Meter()
        self._what = ""
        self._last = ""
        self._next = 0.0
        self._open = False

    def update(self, what: str, done: int = 0, total: int = 0) -> None:
        now = self._clock()
        if what != self._what:
            self.end()
            self._what, self._meter, self._next = what, Meter(), 0.0
        rate = self._meter.feed(now, done)
        if now < self._next and not (total and done >= total):
            return
        self._next = now + (REDRAW if self.terminal else QUIET)
        self._show(what, render.progress(done, total, rate), render.bar(done, total) if total else "")

    def end(self) -> None:
        if self._open:
            self._stream.write("\n")
            self._stream.flush()
            self._open = False

    def clear(self) -> None:
        """On a terminal: as if the last line had never been there."""
        if self._open:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._open = False

    def _show(self, what: str, figures: str, bar: str) -> None:
        parts = [what, bar if self.terminal else "", figures]
        line = " ".join(part for part in parts if part)
        if line == self._last:
            return
        self._last = line
        if self.terminal:
            self._stream.write(f"\r\x1b[K{line[: self._columns - 1]}")
            self._open = True
        else:
            self._stream.write(line + "\n")
        self._stream.flush()
