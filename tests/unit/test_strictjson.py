"""JSON from files: what Python's parser takes beyond JSON, and what would break later, is refused at the door."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8r_agent.errors import StateError
from k8r_agent.model import strictjson
from k8r_agent.model.slots import Slot
from k8r_agent.model.txn import Event
from k8r_agent.steps import duties
from k8r_agent.store.events import EventLog
from k8r_agent.store.journal import Journal
from k8r_agent.store.slots import SlotStore
from tests.fakes.statefiles import FakeStateFiles

TEXTS = st.text(st.characters(blacklist_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-10**18, 10**18) | st.floats(-1e99, 1e99) | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=20)
BAD = [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"1" * 21, b'"\\ud800"', b'{"\\udfff": 1}', b"[" * 100_000,
       b'{"a":' * 100_000, b"\xff", b"", b"{", b'"\xed\xa0\x80"']


@given(VALUES)
def test_what_was_written_is_read(value: object) -> None:
    assert strictjson.loads(strictjson.dumps(value)) == value


@pytest.mark.parametrize("raw", BAD)
def test_what_would_break_later_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError):
        strictjson.loads(raw)


def test_pairs_of_halves_are_a_character() -> None:
    assert strictjson.loads(b'"\\ud83d\\ude00"') == "\U0001f600"


def test_a_name_that_is_no_utf8_stops_no_transaction() -> None:
    """A file name of another encoding reaches messages as half characters."""
    files = FakeStateFiles()
    EventLog(files).append(Event(time=1.0, txn="t", task="update", step="", kind="note", message="/srv/\udcff"))
    assert [e.message for e in EventLog(files).read()] == ["/srv/?"]


@pytest.mark.parametrize("raw", [*BAD, b'{"format": 1, "returns": 1e400}', b'{"format": 1, "automatic": {"x": NaN}}'])
def test_no_file_of_the_agent_is_a_crash(raw: bytes) -> None:
    files = FakeStateFiles()
    files.live = {"duties.json": raw, "slots.json": raw, "transaction.json": raw, "events.jsonl": raw}
    assert not math.isinf(duties.counters(files).returns)
    assert SlotStore(files).status(Slot.IMAGE).release == 0
    assert EventLog(files).read() == ()
    with pytest.raises(StateError):
        Journal(files).load(quarantine=False)
