"""What an administrator adds to a task: /etc/k8r/hooks/<task>/{before,after}-<step>/NN-name, executables.

They run as root, so a file that anybody else could have written, or put there, is not run but reported.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from k8r_agent.errors import StepFailed
from k8r_agent.ports.commands import Commands

ROOT = Path("/etc/k8r/hooks")
TIMEOUT = 300.0  # seconds for each
_NAME = re.compile(r"\d\d-[A-Za-z0-9_-]+")  # as run-parts: no backup files, no .dpkg-old


class Hooks:
    """`owner` is the only user whose files are run; `commands` makes what runs them, when there is one to run."""

    def __init__(self, commands: Callable[[], Commands] | None, *, root: Path = ROOT, owner: int = 0) -> None:
        self._commands, self._root, self._owner = commands, root, owner

    def run(self, task: str, when: str, step: str, facts: Mapping[str, str]) -> tuple[str, ...]:
        """Run those of `when` (before, after) in order of their numbers; stops at the first that fails.

        `facts` reach them as K8R_* variables. Returns the names of those run. Raises StepFailed or CommandFailed.
        """
        ran: list[str] = []
        found = self._found(task, f"{when}-{step}")
        for directory in (self._root, self._root / task, self._root / task / f"{when}-{step}") if found else ():
            self._assert_owned(directory, stat.S_ISDIR, "a directory")
        for path in found:
            self._assert_safe(path)
            env = [f"K8R_{k.upper()}={v}" for k, v in sorted({**facts, "task": task, "step": step}.items())]
            self._run(["/usr/bin/env", *env, str(path)], timeout=TIMEOUT)
            ran.append(path.name)
        return tuple(ran)

    def _run(self, argv: list[str], *, timeout: float) -> None:
        assert self._commands is not None
        self._commands().run(argv, timeout=timeout)

    def _found(self, task: str, directory: str) -> tuple[Path, ...]:
        if self._commands is None:
            return ()
        try:
            entries = sorted((self._root / task / directory).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return ()
        except OSError as error:
            raise StepFailed(f"cannot list the hooks {directory}", why=error.strerror or str(error)) from error
        return tuple(path for path in entries if _NAME.fullmatch(path.name))

    def _assert_safe(self, path: Path) -> None:
        self._assert_owned(path, stat.S_ISREG, "a regular file")
        if not os.access(path, os.X_OK):
            raise StepFailed(f"hook {path} is not run", why="it is not executable", hint=f"chmod 0755 {path}")

    def _assert_owned(self, path: Path, is_kind: Callable[[int], bool], kind: str) -> None:
        """A link is neither: what it leads to lies in a directory that nobody has looked at."""
        try:
            found = path.lstat()
        except OSError as error:
            raise StepFailed(f"hook {path} cannot be run", why=error.strerror or str(error)) from error
        if not is_kind(found.st_mode) or found.st_uid != self._owner or found.st_mode & 0o022:
            raise StepFailed(f"hook {path} is not run", why=f"it is not {kind} that only root may write",
                             hint=f"chown root: {path}; chmod 0755 {path}")
