"""Requests are data: sane, small, in order of time; anything else is moved aside."""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8r_agent.effects.statefiles import StateDirectory
from k8r_agent.errors import Busy, UsageError
from k8r_agent.model.txn import Request
from k8r_agent.store.lock import Lock
from k8r_agent.store.queue import LIMIT, Queue, new_id, parse
from tests.fakes.statefiles import FakeStateFiles


def request(now: float = 1795172400.0, **fields: object) -> Request:
    given_fields: dict[str, object] = {"task": "update", "requested_by": "root", **fields}
    return Request(id=new_id(now), time=now, **given_fields)  # type: ignore[arg-type]


@given(st.lists(st.integers(min_value=16 * 10**14, max_value=4 * 10**15), min_size=2, max_size=20, unique=True))
def test_ids_sort_by_time(micros: list[int]) -> None:
    times = [micro / 1e6 for micro in micros]
    assert sorted(times) == [t for _, t in sorted((new_id(t), t) for t in times)]


def test_requests_come_back_oldest_first() -> None:
    queue = Queue(FakeStateFiles())
    later, sooner = request(1795172500.0), request(1795172400.0, args={"source": "/media/x"})
    queue.put(later)
    queue.put(sooner)
    assert queue.requests() == (sooner, later) == queue.pending()
    queue.remove(sooner.id)
    assert queue.requests() == (later,)


@pytest.mark.parametrize("fields", [{"task": "../x"}, {"task": "Update"}, {"task": ""}, {"args": {"a": "x" * LIMIT}},
                                    {"args": {"source": "/srv/\udcff"}}])
def test_what_would_be_refused_cannot_be_queued(fields: dict[str, Any]) -> None:
    files = FakeStateFiles()
    with pytest.raises(UsageError):
        Queue(files).put(request(**fields))
    assert files.names("queue") == ()


@pytest.mark.parametrize("change", [
    {"id": "20261120T110000.123456Z-ffff"}, {"id": 5}, {"task": 7}, {"task": "rm -rf /"}, {"args": []},
    {"args": {"a": 1}}, {"format": 0}, {"format": 3}, {"time": "now"}, {"time": True},
])
def test_a_bad_request_is_moved_aside_with_a_reason(change: dict[str, object]) -> None:
    files, complaints = FakeStateFiles(), []
    name = "20261120T110000.123456Z-9f3a"
    good = {"format": 1, "id": name, "task": "update", "args": {}, "requested_by": "x", "time": 1.0}
    files.write(f"queue/{name}.json", json.dumps({**good, **change}).encode())
    queue = Queue(files)
    assert queue.pending() == () and files.names("queue")
    assert queue.requests(lambda file, why: complaints.append((file, why))) == ()
    assert len(complaints) == 1 and complaints[0][0] == f"{name}.json"
    assert files.names("queue") == () and len(files.names("quarantine")) == 1


@pytest.mark.parametrize("raw", [b"", b"\xff", b"[" * 50_000, b" " * (LIMIT + 1), b"[]"])
def test_rubbish_in_the_queue_hides_no_request(raw: bytes) -> None:
    files = FakeStateFiles()
    files.write("queue/rubbish", raw)
    queue = Queue(files)
    good = request()
    queue.put(good)
    assert queue.requests() == (good,)
    assert files.names("queue") == (f"{good.id}.json",)


def test_a_request_of_the_next_release_is_read() -> None:
    raw = json.dumps({"format": 2, "id": new_id(1.0), "task": "update", "urgency": "high"}).encode()
    assert parse(raw, json.loads(raw)["id"]).task == "update"


@pytest.mark.fault(26)
def test_the_lock_names_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "run/lock"
    with Lock(path).hold("update (pid 1)"):
        with pytest.raises(Busy, match=r"update \(pid 1\)"), Lock(path).hold("another"):
            pass
        assert Lock(path).holder() == "update (pid 1)"
    with Lock(path).hold("next"):
        pass
    assert Lock(path).holder() == ""


def test_a_lock_can_be_lent_and_comes_back(tmp_path: Path) -> None:
    mine, other = Lock(tmp_path / "lock"), Lock(tmp_path / "lock")
    with mine.hold("mine") as held:
        with held.lent():
            assert mine.holder() == ""
            with other.hold("other"):
                assert mine.holder() == "other"
        with pytest.raises(Busy, match="mine"), other.hold("other"):
            pass


def test_a_lock_that_is_about_to_be_free_is_waited_for(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "lock")
    with lock.hold("first") as held, held.lent():
        pass
    with lock.hold("first"):
        started = time.monotonic()
        with pytest.raises(Busy), Lock(tmp_path / "lock").hold("second", wait=0.3):
            pass
        assert time.monotonic() - started >= 0.3


def test_only_its_owner_can_open_the_lock(tmp_path: Path) -> None:
    (tmp_path / "lock").touch(mode=0o644)  # an older release made it so
    with Lock(tmp_path / "lock").hold("x"):
        assert stat.S_IMODE((tmp_path / "lock").stat().st_mode) == 0o600, "who can read a file can lock it"


def test_a_lock_is_no_way_to_write_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "victim")
    with pytest.raises(Exception, match="lock"), Lock(tmp_path / "lock").hold("x"):
        pass
    assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize("kind", ["another may write", "a link", "a pipe", "a directory"])
def test_only_files_that_nobody_else_could_have_written_are_requests(tmp_path: Path, kind: str) -> None:
    files = StateDirectory(tmp_path, mounted=lambda path: True)
    queue, complaints = Queue(files), []
    asked = request()
    queue.put(asked)
    path = tmp_path / "queue" / f"{asked.id}.json"
    if kind == "another may write":
        path.chmod(0o666)
    else:
        content = path.read_bytes()
        path.unlink()
        if kind == "a link":
            (tmp_path / "elsewhere").write_bytes(content)
            path.symlink_to(tmp_path / "elsewhere")
        elif kind == "a pipe":
            os.mkfifo(path, 0o600)
        else:
            path.mkdir()
    assert queue.pending() == ()
    assert queue.requests(lambda name, why: complaints.append(name)) == () and complaints == [path.name]
    assert not path.exists()
