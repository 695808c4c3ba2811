"""`k8r-image`: the only place of the host side that prints and exits."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from k8r_agent.build.arguments import parser
from k8r_agent.build.verbs import run
from k8r_agent.effects.commands import commands
from k8r_agent.errors import Exit, K8rError
from k8r_agent.model.units import format_duration, format_size

FORMAT_VERSION = 1


class Console:
    """Progress on standard error: one line that changes on a terminal, a line a step elsewhere."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet, self._terminal = quiet, sys.stderr.isatty()
        self._start = self._step_start = time.monotonic()
        self._next = 0.0
        self._step = ""

    def step(self, text: str) -> None:
        self._close()
        self._step, self._step_start, self._next = text, time.monotonic(), 0.0
        if self._quiet:
            return
        if self._terminal:
            print(f"{text} …", file=sys.stderr, end="", flush=True)
        else:
            print(f"[{time.monotonic() - self._start:4.0f} s] {text}", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        self._close()
        if not self._quiet:
            print(text, file=sys.stderr, flush=True)

    def bytes(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._quiet or not self._terminal or now < self._next:
            return
        self._next = now + 0.2
        percent = 100 * done // max(total, 1)
        print(f"\r\x1b[K{self._step} … {percent} % of {format_size(total)}", file=sys.stderr, end="", flush=True)

    def end(self) -> None:
        self._close()
        if not self._quiet:
            print(f"done in {format_duration(time.monotonic() - self._start)}", file=sys.stderr)

    def _close(self) -> None:
        if self._step and self._terminal and not self._quiet:
            taken = format_duration(time.monotonic() - self._step_start)
            print(f"\r\x1b[K{self._step}: {taken}", file=sys.stderr, flush=True)
        self._step = ""


def render(report: dict[str, Any]) -> str:
    """A few lines for a person."""
    if report.get("dry_run"):
        return "".join(f"{key}: {_plain(value)}\n" for key, value in report.items() if key != "dry_run")
    lines = []
    if report.get("changed") is False:
        lines.append("nothing changed since the last build (--force builds anyway)")
    if "disk" in report:
        lines.append(f"{report['disk']}: {format_size(report['size'])}, {report['table']}, {report['loader']}")
    if "bundle" in report:
        lines.append(f"{report['bundle']}: release {report['release']} ({report['version']}), {report['os']}, "
                     f"{'signed' if report['signed'] else 'NOT SIGNED'}")
        lines += [f"  {a['file']}  {format_size(a['size'])}, unpacked {format_size(a['unpacked_size'])}"
                  for a in report["artifacts"].values()]
    if "key" in report:
        lines += [f"{name}: {report[name]}" for name in ("key", "public", "allowed_signers")]
    return "".join(f"{line}\n" for line in lines)


def _plain(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    console = Console(quiet=args.quiet)
    try:
        report = run(args, commands(), console)
    except K8rError as error:
        console.note("") if sys.stderr.isatty() else None
        if args.json:
            print(json.dumps({"format_version": FORMAT_VERSION, "error": error.as_dict()}))
        print(f"k8r-image: {error}", file=sys.stderr)
        if error.hint:
            print(f"  {error.hint}", file=sys.stderr)
        return int(error.exit)
    except KeyboardInterrupt:
        print("k8r-image: interrupted", file=sys.stderr)
        return int(Exit.FAILED)
    if args.verb in ("build", "bundle", "disk"):
        console.end()
    sys.stdout.write(json.dumps({"format_version": FORMAT_VERSION, **report}) + "\n" if args.json else render(report))
    return int(Exit.OK)


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main())
