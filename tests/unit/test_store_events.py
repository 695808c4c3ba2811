"""The event log under torn appends, rotation and damage."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8r_agent.model.txn import Event
from k8r_agent.store.events import NAME, OLD, EventLog
from tests.fakes.statefiles import FakeStateFiles


def event(n: int, message: str = "") -> Event:
    return Event(time=float(n), txn="t", task="update", step=f"s{n}", kind="started", message=message, duration=0.5)


def test_events_come_back_in_order_with_all_fields() -> None:
    log = EventLog(FakeStateFiles())
    for n in range(5):
        log.append(event(n, "größer\nals"))
    assert log.read() == tuple(event(n, "größer\nals") for n in range(5))
    assert log.read(last=2) == (event(3, "größer\nals"), event(4, "größer\nals"))
    assert log.read(txn="u") == ()


@given(st.floats(min_value=0, max_value=1), st.text())
def test_a_torn_append_loses_only_itself(keep: float, message: str) -> None:
    class Cut(Exception):
        pass

    armed = False

    def point(name: str) -> None:
        if armed and name.endswith(":written"):
            raise Cut

    files = FakeStateFiles(point=point)
    log = EventLog(files)
    log.append(event(1))
    armed = True
    with pytest.raises(Cut):
        log.append(event(2, message))
    armed = False
    files.power_cut(keep)
    log.append(event(3))
    steps = [e.step for e in log.read()]
    assert steps in (["s1", "s3"], ["s1", "s2", "s3"])
    assert [n for n, _ in log.numbered()] == sorted({n for n, _ in log.numbered()})


def test_a_damaged_line_is_skipped() -> None:
    files = FakeStateFiles()
    log = EventLog(files)
    for n in range(3):
        log.append(event(n))
    files.live[NAME] = files.live[NAME].replace(b'"s1"', b'"x1"')
    assert [e.step for e in log.read()] == ["s0", "s2"]


def test_size_is_bounded_and_numbers_go_on() -> None:
    files = FakeStateFiles()
    log = EventLog(files, limit=2000)
    for n in range(200):
        log.append(event(n))
    assert len(files.live[NAME]) < 2500 and len(files.live[OLD]) < 2500
    numbers = [n for n, _ in log.numbered()]
    assert numbers == list(range(numbers[0], 201))


def test_a_power_cut_in_the_middle_of_a_rotation_shows_no_event_twice() -> None:
    class Cut(Exception):
        pass

    armed = False

    def point(name: str) -> None:
        if armed and name == f"files:{OLD}:after":
            raise Cut

    files = FakeStateFiles(point=point)
    log = EventLog(files, limit=500)
    n = 0
    while len(files.live.get(NAME, b"")) <= 500:
        n += 1
        log.append(event(n))
    armed = True
    with pytest.raises(Cut):
        log.append(event(n + 1))
    armed = False
    files.power_cut()
    log.append(event(n + 2))
    steps = [e.step for e in log.read()]
    assert steps == [*(f"s{i}" for i in range(1, n + 1)), f"s{n + 2}"]


def test_a_follower_sees_what_is_new() -> None:
    log = EventLog(FakeStateFiles())
    log.append(event(1))
    last = max(n for n, _ in log.numbered())
    log.append(event(2))
    assert [e.step for _, e in log.numbered(after=last)] == ["s2"]


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_failing_partition_does_not_stop_the_caller(fault: int) -> None:
    files = FakeStateFiles()
    files.fault = fault
    EventLog(files).append(event(1))
    assert EventLog(files).read() == ()


def test_events_that_were_moved_from_ram_are_shown_and_numbers_go_on() -> None:
    """While the state partition is out of reach numbers begin anew; later those lines lie behind higher ones."""
    files, ram = FakeStateFiles(), FakeStateFiles()
    for n, store in ((1, files), (2, files), (3, files), (11, ram), (12, ram)):
        EventLog(store).append(event(n))
    files.append("events.jsonl", ram.read("events.jsonl") or b"")
    log = EventLog(files)
    assert [e.step for e in log.read()] == ["s1", "s2", "s3", "s11", "s12"]
    last = max(n for n, _ in log.numbered())
    log.append(event(21))
    assert [e.step for _, e in log.numbered(after=last)] == ["s21"]
