"""The only place that starts other programs.

`sh` comes in two incompatible majors on supported systems (1.14 on Debian 12 and Ubuntu 24.04, 2.x on Debian 13) and
both give a child a terminal unless told otherwise, so every option is passed explicitly. Where sh is not installed
(a build host), a twin over subprocess does the same; one contract test holds both to it. Images never go through here.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

from k8r_agent.errors import CommandFailed
from k8r_agent.ports.commands import Result

DIRECTORIES = ("/usr/sbin", "/usr/bin", "/sbin", "/bin")
ENVIRONMENT = {"PATH": ":".join(DIRECTORIES), "LC_ALL": "C.UTF-8", "HOME": "/root"}
_TAIL = 5  # lines of a failed program's complaint that a person is shown


class FullCommands(Protocol):
    """The Commands port plus what only long, host-side commands need."""

    def run(self, argv: Sequence[str], *, ok: Sequence[int] = (0,), timeout: float = 60.0, stdin: bytes = b"",
            log: Path | None = None, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Result:
        """As the port says. With `log`, both outputs are appended to that file while they appear (and the result's
        are empty). `env` adds to the clean environment. `timeout` in seconds; the whole process group is killed.

        Raises CommandFailed: not found, timed out, killed, or an exit code that is not in `ok`.
        """


@functools.cache
def find(program: str) -> str:
    """Absolute path of a program, looked up once, never in the caller's PATH. Raises CommandFailed."""
    if os.path.isabs(program):
        if os.access(program, os.X_OK):
            return program
    else:
        for directory in DIRECTORIES:
            path = f"{directory}/{program}"
            if os.access(path, os.X_OK):
                return path
    raise CommandFailed(f"{program} is not installed", why=f"looked in {', '.join(DIRECTORIES)}")


def _checked(argv: Sequence[str], result: Result, ok: Sequence[int], timed_out: float | None,
             log: Path | None, log_start: int) -> Result:
    name = os.path.basename(argv[0])
    if timed_out is None and result.code in ok:
        return result
    said = result.stderr or result.stdout
    if log is not None:
        with log.open("rb") as file:
            file.seek(max(log_start, os.fstat(file.fileno()).st_size - 4096))
            said = file.read().decode("utf-8", "replace")
    why = "; ".join(line.strip() for line in said.strip().splitlines()[-_TAIL:])
    hint = f"the whole output is in {log}" if log is not None else ""
    if timed_out is not None:
        raise CommandFailed(f"{name} did not end within {timed_out:g} s", why=why, hint=hint)
    if result.code < 0:
        raise CommandFailed(f"{name} was killed by signal {-result.code}", why=why, hint=hint)
    raise CommandFailed(f"{name} failed with exit code {result.code}", why=why, hint=hint)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


@contextlib.contextmanager
def _appending(log: Path | None) -> Any:
    if log is None:
        yield None, 0
        return
    with log.open("ab", buffering=0) as file:
        yield file, file.tell()


class ShCommands:
    """Over sh, 1.14 or 2.x."""

    def __init__(self) -> None:
        import sh  # 17 ms (66 ms on 2.x) that `status` and completion must not pay

        self._command, self._killed = sh.Command, sh.SignalException
        # On 1.14 an unknown special keyword is passed on to the program (`---return-cmd`), so ask before using it.
        self._extra: dict[str, Any] = {"_return_cmd": True} if "return_cmd" in sh.Command._call_args else {}

    def run(self, argv: Sequence[str], *, ok: Sequence[int] = (0,), timeout: float = 60.0, stdin: bytes = b"",
            log: Path | None = None, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Result:
        path = find(argv[0])
        with _appending(log) as (file, start):
            result, timed_out = self._run(path, argv[1:], timeout, stdin, file, {**ENVIRONMENT, **(env or {})}, cwd)
        return _checked(argv, result, ok, timeout if timed_out else None, log, start)

    def _run(self, path: str, args: Sequence[str], timeout: float, stdin: bytes, file: IO[bytes] | None,
             env: Mapping[str, str], cwd: Path | None) -> tuple[Result, bool]:
        options: dict[str, Any] = dict(
            _in=stdin, _tty_in=False, _tty_out=False, _env=dict(env), _new_session=True, _truncate_exc=False,
            _ok_code=list(range(256)),  # the exit code is judged here, not by sh's 300 exception classes
            _bg=True, _bg_exc=False, **self._extra)
        if cwd is not None:
            options["_cwd"] = str(cwd)
        options.update(dict(_out_bufsize=65536, _err_bufsize=65536) if file is None else dict(_out=file, _err=file))
        try:
            running = self._command(path)(*args, **options)
        except Exception as error:  # ForkException and friends: names differ between the majors
            raise CommandFailed(f"{path} could not be started", why=str(error).strip()[-400:]) from error
        # sh's own _timeout kills the child only; a grandchild that holds the pipe would then block us for ever.
        late = threading.Event()
        timer = threading.Timer(timeout, _kill_group, (running.pid, late))
        timer.daemon = True
        timer.start()
        try:
            with contextlib.suppress(self._killed):
                running.wait()
            out, err = (b"", b"") if file is not None else (running.stdout, running.stderr)
        finally:
            timer.cancel()
        return Result(running.exit_code, _text(out), _text(err)), late.is_set()


class SubprocessCommands:
    """The twin for hosts without sh."""

    def run(self, argv: Sequence[str], *, ok: Sequence[int] = (0,), timeout: float = 60.0, stdin: bytes = b"",
            log: Path | None = None, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Result:
        path = find(argv[0])
        with _appending(log) as (file, start):
            sink = file if file is not None else subprocess.PIPE
            try:
                child = subprocess.Popen([path, *argv[1:]], stdin=subprocess.PIPE, stdout=sink, stderr=sink,
                                         env={**ENVIRONMENT, **(env or {})}, cwd=cwd, start_new_session=True)
            except OSError as error:
                raise CommandFailed(f"{path} could not be started", why=error.strerror or str(error)) from error
            late = False
            try:
                out, err = child.communicate(stdin, timeout=timeout)
            except subprocess.TimeoutExpired:
                late = True
                _kill_group(child.pid)
                out, err = child.communicate()
        result = Result(child.returncode, _text(out or b""), _text(err or b""))
        return _checked(argv, result, ok, timeout if late else None, log, start)


def _kill_group(pid: int, late: threading.Event | None = None) -> None:
    if late is not None:
        late.set()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def commands() -> FullCommands:
    """The real Commands: sh where it is installed, its twin elsewhere."""
    try:
        return ShCommands()
    except ImportError:
        return SubprocessCommands()
