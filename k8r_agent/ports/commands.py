"""Other programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Result:
    code: int
    stdout: str
    stderr: str


class Commands(Protocol):
    def run(self, argv: Sequence[str], *, ok: Sequence[int] = (0,), timeout: float = 60.0,
            stdin: bytes = b"") -> Result:
        """Run a program (found once in the system directories) with a clean environment and no terminal.

        Raises CommandFailed unless the exit code is in `ok`; never hands `stdin` or output to a shell.
        """
