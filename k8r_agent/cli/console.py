"""Where output goes: results to stdout, everything else to stderr; text for people or one JSON object for programs."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping
from typing import TextIO

from k8r_agent.errors import K8rError

PROGRAM = "k8r-agent"
FORMAT_VERSION = 1
_COLOURS = {"red": "31", "green": "32", "yellow": "33", "bold": "1", "dim": "2"}


class Console:
    """`json` is set once the arguments are known. Only this class writes to a stream."""

    def __init__(self, *, out: TextIO | None = None, err: TextIO | None = None, stdin: TextIO | None = None,
                 environ: Mapping[str, str] | None = None) -> None:
        self.out, self.err, self.stdin = out or sys.stdout, err or sys.stderr, stdin or sys.stdin
        self.environ = os.environ if environ is None else environ
        self.json = False
        for stream in (self.out, self.err):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # an arrow in a Latin-1 terminal is no reason to fail

    @property
    def interactive(self) -> bool:
        """There is a person who can be asked."""
        return self.stdin.isatty() and self.err.isatty() and not self.json

    @property
    def debug(self) -> bool:
        return self.environ.get("SYSTEMD_LOG_LEVEL", "").lower() in ("debug", "7")

    def paint(self, text: str, colour: str) -> str:
        """Coloured on a terminal, unless NO_COLOR is set (to anything) or TERM is dumb."""
        if not self.out.isatty() or self.environ.get("NO_COLOR") or self.environ.get("TERM", "dumb") == "dumb":
            return text
        return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"

    def say(self, *lines: str) -> None:
        """Part of the result, for people; nothing with --json."""
        if not self.json:
            for line in lines:
                self.out.write(line + "\n")
            self.out.flush()

    def result(self, value: Mapping[str, object]) -> None:
        """The result for programs; nothing without --json."""
        if self.json:
            import json

            json.dump({"format_version": FORMAT_VERSION, **value}, self.out, indent=2, ensure_ascii=False)
            self.out.write("\n")
            self.out.flush()

    def note(self, *lines: str) -> None:
        """Beside the result: progress, remarks, questions."""
        for line in lines:
            self.err.write(line + "\n")
        self.err.flush()

    def ask(self, question: str) -> bool:
        """True only for a spelled out yes. Call it only when `interactive`."""
        self.err.write(f"{question} Type yes to go on: ")
        self.err.flush()
        return self.stdin.readline().strip().lower() == "yes"

    def error(self, error: K8rError) -> None:
        """One place turns an error into what is seen of it."""
        problems: tuple[K8rError, ...] = getattr(error, "problems", ())
        if self.json:
            value: dict[str, object] = dict(error.as_dict())
            if problems:
                value["problems"] = [problem.as_dict() for problem in problems]
            self.result({"error": value})
            return
        self.note(f"{PROGRAM}: error[{error.code}]: {error.what}")
        for problem in problems:
            self.note(f"  {problem}", *([f"    hint: {problem.hint}"] if problem.hint else []))
        if error.why and not problems:
            self.note(f"  why: {error.why}")
        if error.hint:
            self.note(f"  hint: {error.hint}")
