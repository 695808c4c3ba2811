"""The records that two agent versions share: every format ever released, the next one, and damage."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from k8r_agent.errors import StateError
from k8r_agent.model.slots import Slot, SlotState, SlotStatus
from k8r_agent.model.txn import Transaction, TxnState
from k8r_agent.steps import duties
from k8r_agent.store.events import EventLog
from k8r_agent.store.journal import FORMAT, NAME, Journal
from k8r_agent.store.queue import parse
from k8r_agent.store.slots import SlotStore
from tests.fakes.blockdev import PowerCut
from tests.fakes.statefiles import FakeStateFiles

FORMATS = Path(__file__).parent.parent / "data/formats"
TXN = Transaction(id="20261121T110000.000000Z-0001", task="update", steps=("a", "b"), args={"source": "x"},
                  tries={"a": 2}, facts={"k": "v"}, note="n", agent="1", started=1.5, ended=2.5)


def stored(name: str, at: str) -> FakeStateFiles:
    files = FakeStateFiles()
    files.write(at, (FORMATS / name).read_bytes())
    return files


def test_the_journal_returns_what_it_saved() -> None:
    files = FakeStateFiles()
    Journal(files).save(TXN)
    assert Journal(files).load() == TXN


def test_no_journal_is_no_transaction() -> None:
    assert Journal(FakeStateFiles()).load() is None


@pytest.mark.parametrize("number", range(1, FORMAT + 1))
def test_every_released_journal_format_is_read(number: int) -> None:
    txn = Journal(stored(f"transaction-{number}.json", NAME)).load()
    assert txn is not None and txn.state is TxnState.RUNNING
    assert txn.tries["boot-image"] == 1 and txn.facts["release"] == "2" and txn.started == 1795172400.5


def test_every_released_slots_format_is_read() -> None:
    slots = SlotStore(stored("slots-1.json", "slots.json"))
    assert slots.status(Slot.IMAGE) == SlotStatus(
        state=SlotState.OK, release=2, version="2026.11.2", digest="ab12", txn="20261120T110000.123456Z-9f3a",
        time=1795172400.5)
    assert slots.kept_releases() == (2, 1)


def test_every_released_event_request_and_duties_format_is_read() -> None:
    events = EventLog(stored("events-1.jsonl", "events.jsonl")).read()
    assert [e.kind for e in events] == ["started", "started", "succeeded"] and events[2].duration == 0.2
    request = parse((FORMATS / "request-1.json").read_bytes(), "20261120T110000.123456Z-9f3a")
    assert request.args == {"source": "https://bundles.example/k8r"}
    assert duties.counters(stored("duties-1.json", "duties.json")).automatic == {"ab12": 1}


def test_fields_of_the_next_release_survive_a_save_by_this_one() -> None:
    files = stored("transaction-1.json", NAME)
    record = json.loads(files.live[NAME])
    files.write(NAME, json.dumps({**record, "format": FORMAT + 1, "drained": ["pod"]}).encode())
    journal = Journal(files)
    txn = journal.load()
    assert txn is not None
    journal.save(replace(txn, note="went on"))
    after = json.loads(files.live[NAME])
    assert after["drained"] == ["pod"] and after["note"] == "went on" and after["format"] == FORMAT


def test_fields_of_another_transaction_do_not_survive() -> None:
    files = stored("transaction-1.json", NAME)
    files.write(NAME, json.dumps({**json.loads(files.live[NAME]), "drained": ["pod"]}).encode())
    journal = Journal(files)
    journal.load()
    journal.save(TXN)
    assert "drained" not in json.loads(files.live[NAME])


def test_unknown_slot_fields_survive_and_an_unknown_state_means_unknown() -> None:
    files = stored("slots-1.json", "slots.json")
    record = json.loads(files.live["slots.json"])
    record["slots"]["image"]["sealed"] = True
    record["slots"]["working"]["state"] = "scrubbing"
    files.write("slots.json", json.dumps(record).encode())
    slots = SlotStore(files)
    assert slots.status(Slot.WORKING) == SlotStatus()
    slots.set_status(Slot.IMAGE, SlotStatus(state=SlotState.PENDING))
    after = json.loads(files.live["slots.json"])
    assert after["slots"]["image"]["sealed"] is True and after["slots"]["working"]["state"] == "scrubbing"


@pytest.mark.parametrize("number", [0, FORMAT + 2, -1])
def test_a_format_out_of_reach_is_refused_and_left_alone(number: int) -> None:
    files = FakeStateFiles()
    files.write(NAME, json.dumps({"format": number}).encode())
    for _ in range(2):
        with pytest.raises(StateError, match=f"format {number}"):
            Journal(files).load()


def test_a_state_that_only_a_newer_release_knows_is_refused_and_left_alone() -> None:
    files = stored("transaction-1.json", NAME)
    record = {**json.loads(files.live[NAME]), "format": FORMAT + 1, "state": "paused"}
    files.write(NAME, json.dumps(record).encode())
    with pytest.raises(StateError, match="cannot be understood"):
        Journal(files).load()
    assert NAME in files.live


@pytest.mark.parametrize("raw", [
    b"", b"{", b"null", b"[]", b"{}", b'{"format": true}', b'{"format": "1"}', b"\xff\xfe", b"[" * 100_000,
    b'{"format": 1}', b'{"format": 1, "id": 1, "task": "x", "steps": [], "state": "running"}',
    b'{"format": 1, "id": "1", "task": "x", "steps": [2], "state": "running"}',
    b'{"format": 1, "id": "1", "task": "x", "steps": [], "state": "resting"}',
    b'{"format": 1, "id": "1", "task": "x", "steps": [], "state": "running", "tries": {"a": "x"}}',
    b'{"format": 1, "id": "1", "task": "x", "steps": [], "state": "running", "facts": 5}',
])
def test_a_damaged_journal_is_set_aside_and_said_once(raw: bytes) -> None:
    files = FakeStateFiles()
    files.write(NAME, raw)
    with pytest.raises(StateError, match="damaged") as caught:
        Journal(files).load()
    kept = files.names("quarantine")
    assert len(kept) == 1 and f"quarantine/{kept[0]}" in caught.value.hint
    assert Journal(files).load() is None


def test_a_reader_sets_nothing_aside() -> None:
    files = FakeStateFiles()
    files.write(NAME, b"{")
    with pytest.raises(StateError):
        Journal(files).load(quarantine=False)
    assert files.live[NAME] == b"{"


@given(st.binary(max_size=200))
def test_no_content_leads_to_a_traceback(raw: bytes) -> None:
    for name in (NAME, "slots.json", "duties.json", "events.jsonl"):
        files = FakeStateFiles()
        files.write(name, raw)
        try:
            Journal(files).load()
        except StateError:
            pass
        assert SlotStore(files).status(Slot.IMAGE) == SlotStatus()
        duties.counters(files)
        EventLog(files).read()


@settings(suppress_health_check=list(HealthCheck))
@given(st.dictionaries(st.sampled_from(["format", "id", "task", "steps", "state", "tries", "facts", "slots", "kept",
                                        "definition", "confirmed"]),
                       st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5),
                                    lambda inner: st.lists(inner, max_size=3), max_leaves=5)))
def test_no_json_leads_to_a_traceback(record: dict[str, object]) -> None:
    for name in (NAME, "slots.json"):
        files = FakeStateFiles()
        files.write(name, json.dumps({"format": 1, **record}).encode())
        for ask in (lambda f=files: Journal(f).load(), lambda f=files: SlotStore(f).status(Slot.IMAGE),
                    lambda f=files: SlotStore(f).kept_releases()):
            try:
                ask()
            except StateError:
                pass


def test_quarantine_is_bounded() -> None:
    files = FakeStateFiles()
    for n in range(30):
        files.write(NAME, b"{" * (n + 1))
        with pytest.raises(StateError):
            Journal(files).load()
    assert len(files.names("quarantine")) == 8


def test_a_cancel_is_for_one_transaction() -> None:
    journal = Journal(FakeStateFiles())
    journal.ask_cancel("t1")
    assert journal.cancel_asked("t1") and not journal.cancel_asked("t2")
    journal.drop_cancel()
    assert not journal.cancel_asked("t1")


def test_two_releases_are_kept() -> None:
    files = FakeStateFiles()
    slots = SlotStore(files)
    for release in (1, 2, 3, 2):
        slots.keep(release, {"manifest.toml": b"%d" % release, "source": b"s"})
    assert slots.kept_releases() == (2, 3)
    assert slots.kept(3, "manifest.toml") == b"3" and slots.kept(1, "manifest.toml") is None
    assert files.names("manifests") == ("2", "3")


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden"])
def test_only_bare_names_are_kept(name: str) -> None:
    with pytest.raises(StateError):
        SlotStore(FakeStateFiles()).keep(1, {name: b""})


@pytest.mark.fault(13)
def test_the_floor_only_rises() -> None:
    slots = SlotStore(FakeStateFiles())
    assert slots.release_floor() == 0
    slots.raise_floor(3)
    slots.raise_floor(2)
    assert slots.release_floor() == 3


@pytest.mark.parametrize("damage", [b"", b"x", b"-3\n", b"2\n3\n", b"\xff\xfe", b"9" * 40, "٣".encode()])
def test_a_damaged_floor_is_not_a_low_floor(damage: bytes) -> None:
    files = FakeStateFiles()
    slots = SlotStore(files)
    slots.raise_floor(3)
    slots.raise_floor(2)  # a rollback
    files.write("release-floor", damage)
    before = dict(files.live)
    assert slots.release_floor() == 3 and "taken as 3" in slots.problems()[0]
    assert files.live == before, "whoever only looks leaves everything as it is"
    assert "release-floor is damaged" in slots.mend()[0]
    assert files.read("release-floor") == b"3\n" and slots.problems() == () == slots.mend()
    assert [files.read(f"quarantine/{name}") for name in files.names("quarantine")] == [damage]


def test_a_confirm_heals_a_damaged_floor() -> None:
    files = FakeStateFiles()
    SlotStore(files).set_status(Slot.WORKING, SlotStatus(state=SlotState.OK, release=4))
    files.write("release-floor", b"x")
    SlotStore(files).raise_floor(4)
    assert files.read("release-floor") == b"4\n" and files.names("quarantine")


def test_a_floor_is_recovered_from_the_kept_manifests_when_all_else_is_lost() -> None:
    files = FakeStateFiles()
    for release in (1, 2):
        SlotStore(files).keep(release, {"manifest.toml": b"m"})
    files.write("release-floor", b"x")
    files.write("slots.json", b"{")
    said = SlotStore(files).mend()
    assert "both slots count as unknown" in said[0] and "taken as 2" in said[1]
    assert SlotStore(files).release_floor() == 2 and len(files.names("quarantine")) == 2


def test_a_power_cut_never_leaves_a_low_floor() -> None:
    """While it is mended."""
    points: list[str] = []
    for at in range(100):
        seen = iter(range(1000))

        def point(name: str, seen: Iterator[int] = seen, at: int = at) -> None:
            points.append(name)
            if next(seen) == at:
                raise PowerCut

        files = FakeStateFiles()
        SlotStore(files).raise_floor(3)
        files.write("release-floor", b"x")
        files.point = point
        try:
            SlotStore(files).mend()
            break
        except PowerCut:
            files.power_cut()
            assert SlotStore(files).release_floor() == 3
    assert at > 4 and "files:release-floor:replaced" in points
