"""Into a cluster with a clock that is behind, or was ahead."""

from __future__ import annotations

from k8r_agent.steps import duties
from k8r_agent.store.events import EventLog
from tests.crash.clusters import JOINER
from tests.fakes.cluster import Outside
from tests.unit.test_cluster_entry import node, tried, untouched


def test_a_clock_in_1970() -> None:
    found = node(JOINER, outside=Outside())
    found.cluster.time = 0.0
    assert "the clock is wrong" in tried(found).note and untouched(found)
    found.cluster.time = None
    found.machine.sleep(duties.REST)
    assert tried(found).state.value == "done"


def test_a_clock_that_was_ahead_once() -> None:
    """The time server sets it back; what was written down in between is in the future for hours."""
    outside = Outside()
    outside.answers = False
    found = node(JOINER, outside=outside)
    found.machine.clock += 5 * 3600.0
    txn = tried(found)
    found.machine.clock -= 5 * 3600.0
    found.machine.floor = txn.ended
    outside.answers = True
    found.cluster.time = found.machine.clock
    assert tried(found).id != txn.id, "not only when that time has come"


def test_one_attempt_for_each_start_of_the_runner_while_the_clock_is_wrong() -> None:
    found = node(JOINER, outside=Outside())
    found.cluster.time = 0.0
    for number in range(1, 4):
        assert "the clock is wrong" in tried(found).note and untouched(found)
        started = [e for e in EventLog(found.files).read() if (e.task, e.kind, e.step) == ("join", "started", "")]
        assert len(started) == number
