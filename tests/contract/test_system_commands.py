"""Both Commands implementations keep one contract. `K8R_SH_PATH` names a directory with another major of sh."""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from k8r_agent.effects.commands import FullCommands, ShCommands, SubprocessCommands, find
from k8r_agent.errors import CommandFailed


@pytest.fixture(params=["sh", "subprocess"])
def commands(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[FullCommands]:
    if request.param == "subprocess":
        yield SubprocessCommands()
        return
    if extra := os.environ.get("K8R_SH_PATH"):
        monkeypatch.syspath_prepend(extra)
        sys.modules.pop("sh", None)
        importlib.invalidate_caches()
    pytest.importorskip("sh")
    yield ShCommands()


def test_outputs_are_apart_and_text(commands: FullCommands) -> None:
    result = commands.run(["sh", "-c", "echo out; echo err >&2; printf '\\377'"])
    assert (result.code, result.stdout, result.stderr) == (0, "out\n\ufffd", "err\n")


def test_arguments_reach_the_program_untouched(commands: FullCommands) -> None:
    arguments = ["a b", "", "*", "$HOME", "--return-cmd", "é", "x\ny"]
    assert commands.run(["printf", "%s|", *arguments]).stdout == "".join(f"{a}|" for a in arguments)


def test_stdin_is_given_whole_and_closed(commands: FullCommands) -> None:
    data = bytes(range(256)) * 4096
    assert commands.run(["wc", "-c"], stdin=data).stdout.strip() == str(len(data))
    assert commands.run(["cat"]).stdout == ""


def test_much_output_is_not_lost(commands: FullCommands) -> None:
    result = commands.run(["sh", "-c", "seq 300000; seq 300000 >&2"])
    assert result.stdout.count("\n") == result.stderr.count("\n") == 300000
    assert result.stdout.endswith("300000\n")


def test_there_is_no_terminal(commands: FullCommands) -> None:
    assert commands.run(["sh", "-c", "for n in 0 1 2; do test -t $n && echo tty; done; exec 3</dev/tty"],
                        ok=(1, 2)).stdout == ""


def test_the_environment_is_clean(commands: FullCommands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD_ME", "x")
    lines = set(commands.run(["env"], env={"EXTRA": "1"}).stdout.splitlines())
    assert lines >= {"LC_ALL=C.UTF-8", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "EXTRA=1"}
    assert not [line for line in lines if line.startswith("LD_PRELOAD_ME")]


def test_a_failure_carries_the_last_lines(commands: FullCommands) -> None:
    with pytest.raises(CommandFailed) as caught:
        commands.run(["sh", "-c", "seq 100 >&2; echo broken disk >&2; exit 3"])
    assert "exit code 3" in caught.value.what and caught.value.why == "97; 98; 99; 100; broken disk"


def test_other_exit_codes_can_be_fine(commands: FullCommands) -> None:
    assert commands.run(["sh", "-c", "exit 2"], ok=(0, 2)).code == 2


def test_a_signal_is_named(commands: FullCommands) -> None:
    with pytest.raises(CommandFailed, match="signal 15"):
        commands.run(["sh", "-c", "kill -TERM $$"])


def test_a_timeout_ends_the_whole_group(commands: FullCommands, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    began = time.monotonic()
    with pytest.raises(CommandFailed, match=r"did not end within 0\.5 s"):
        commands.run(["sh", "-c", f"echo doing >&2; sleep 60 & echo $! > {pid}; wait"], timeout=0.5)
    assert time.monotonic() - began < 5
    for _ in range(50):
        state = Path(f"/proc/{pid.read_text().strip()}/stat")
        if not state.exists() or " Z " in state.read_text():
            return
        time.sleep(0.05)
    pytest.fail("the grandchild lives on")


def test_a_log_gets_everything_and_is_quoted(commands: FullCommands, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("before\n")
    assert commands.run(["sh", "-c", "echo one; echo two >&2"], log=log).stdout == ""
    with pytest.raises(CommandFailed) as caught:
        commands.run(["sh", "-c", "echo three; exit 1"], log=log)
    assert caught.value.why == "three" and str(log) in caught.value.hint
    assert sorted(log.read_text().split()) == ["before", "one", "three", "two"]


def test_working_directory(commands: FullCommands, tmp_path: Path) -> None:
    assert commands.run(["pwd", "-P"], cwd=tmp_path).stdout.strip() == str(tmp_path.resolve())


def test_a_missing_program_is_an_error_a_person_understands(commands: FullCommands) -> None:
    with pytest.raises(CommandFailed, match="no-such-program is not installed"):
        commands.run(["no-such-program"])


def test_an_executable_that_cannot_be_executed(commands: FullCommands, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.write_bytes(b"\x7fELF rubbish")
    bad.chmod(0o755)
    with pytest.raises(CommandFailed):
        commands.run([str(bad)])


def test_programs_come_from_the_system_directories_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = tmp_path / "only-here"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CommandFailed):
        find("only-here")
    assert find("true") == "/usr/bin/true"
