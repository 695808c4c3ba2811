from __future__ import annotations

import pytest

from k8r_agent.cli import render
from k8r_agent.cli.console import Console
from k8r_agent.cli.progress import Meter, ProgressLine
from tests.fakes.prompt import Stream

MIB = 1 << 20


def test_table_aligns_and_leaves_no_trailing_space() -> None:
    assert render.table([("a", "bbb", "c"), ("aaa", "b", "")], head=("x", "y", "z")) == ["x    y    z", "a    bbb  c",
                                                                                        "aaa  b"]
    assert render.table([]) == []


def test_pairs_leave_out_what_is_empty() -> None:
    assert render.pairs([("node", "x"), ("boot", "")]) == ["node  x"]


@pytest.mark.parametrize(("args", "expected"), [
    ((0, 0, 0.0), ""),
    ((5 * MIB, 0, 0.0), "5.0 MiB"),
    ((0, 10 * MIB, 0.0), "  0%  0 B of 10.0 MiB"),
    ((5 * MIB, 10 * MIB, float(MIB)), " 50%  5.0 MiB of 10.0 MiB  1.0 MiB/s  5.0 s left"),
    ((10 * MIB, 10 * MIB, float(MIB)), "100%  10.0 MiB of 10.0 MiB  1.0 MiB/s"),
    ((12 * MIB, 10 * MIB, 0.0), "100%  10.0 MiB of 10.0 MiB"),
])
def test_progress(args: tuple[int, int, float], expected: str) -> None:
    assert render.progress(*args) == expected


@pytest.mark.parametrize(("done", "total", "expected"), [(0, 10, "[----]"), (5, 10, "[##--]"), (10, 10, "[####]"),
                                                          (0, 0, "[----]")])
def test_bar(done: int, total: int, expected: str) -> None:
    assert render.bar(done, total, 4) == expected


@pytest.mark.parametrize(("then", "expected"), [
    (0.0, ""), (1_000_000 - 5, "5.0 s ago"), (1_000_000 - 7200, "2 h 00 min ago"), (1_000_000 - 400_000, "on "),
    (1_000_000 + 3600, "clock was ahead"),
])
def test_ago(then: float, expected: str) -> None:
    assert expected in render.ago(then, 1_000_000)


def test_releases_and_counts() -> None:
    assert render.release(0, "") == "unknown release"
    assert render.release(2, "") == "release 2"
    assert render.release(2, "2026.11") == "2026.11 (release 2)"
    assert [render.count(1, "step"), render.count(2, "step"), render.count(2, "try", "tries")] == [
        "1 step", "2 steps", "2 tries"]


def test_the_meter_follows_the_rate_and_forgets() -> None:
    meter = Meter()
    for second in range(5):
        rate = meter.feed(float(second), second * 10 * MIB)
    assert rate == pytest.approx(10 * MIB)
    for second in range(5, 60):
        rate = meter.feed(float(second), 40 * MIB + (second - 4) * MIB)
    assert rate == pytest.approx(MIB, rel=0.1)
    assert meter.feed(61.0, 0) == 0.0  # something new begins


class Ticking:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_without_a_terminal_a_line_every_few_seconds() -> None:
    stream, clock = Stream(), Ticking()
    line = ProgressLine(stream, clock=clock)
    for _ in range(200):
        line.update("write-image", int(clock.now * MIB), 20 * MIB)
        clock.now += 0.1
    line.update("write-image", 20 * MIB, 20 * MIB)
    line.end()
    lines = stream.getvalue().splitlines()
    assert 4 <= len(lines) <= 6
    assert lines[0].startswith("write-image")
    assert "100%" in lines[-1]
    assert "\x1b" not in stream.getvalue() and "\r" not in stream.getvalue()


def test_on_a_terminal_one_line_that_fits() -> None:
    stream, clock = Stream(terminal=True), Ticking()
    line = ProgressLine(stream, clock=clock, columns=40)
    for _ in range(50):
        line.update("write-image", int(clock.now * MIB), 100 * MIB)
        clock.now += 0.1
    line.update("next step")
    line.end()
    drawn = stream.getvalue().split("\r\x1b[K")
    assert stream.getvalue().count("\n") == 2
    assert all(len(part.rstrip("\n")) < 40 for part in drawn)
    assert any("[#" in part or "[-" in part for part in drawn)


@pytest.mark.parametrize(("terminal", "environ", "coloured"), [
    (True, {"TERM": "xterm"}, True), (False, {"TERM": "xterm"}, False),
    (True, {"TERM": "xterm", "NO_COLOR": "1"}, False),
    (True, {"TERM": "dumb"}, False), (True, {}, False), (True, {"TERM": "xterm", "NO_COLOR": ""}, True),
])
def test_colour(terminal: bool, environ: dict[str, str], coloured: bool) -> None:
    console = Console(out=Stream(terminal=terminal), err=Stream(), stdin=Stream(), environ=environ)
    assert ("\x1b" in console.paint("x", "red")) is coloured


def test_only_a_spelled_out_yes_is_one() -> None:
    for text, expected in (("yes\n", True), (" YES \n", True), ("y\n", False), ("\n", False), ("", False)):
        console = Console(out=Stream(), err=Stream(terminal=True), stdin=Stream(text, terminal=True), environ={})
        assert console.ask("Sure?") is expected
