"""sd_notify as systemd would hear it: a real datagram socket."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from k8r_agent.effects.notify import Heartbeat, Notifier, ServiceReporter, watchdog_interval
from k8r_agent.errors import Cancelled


@pytest.fixture(params=["path", "abstract"])
def ear(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@k8r-test-{time.monotonic_ns()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + address[1:] if address.startswith("@") else address)
        listener.settimeout(2)
        yield address, listener


def test_messages(ear: tuple[str, socket.socket]) -> None:
    address, listener = ear
    notifier = Notifier(address)
    notifier.ready()
    notifier.status("two\nlines")
    notifier.extend_timeout(1.5)
    assert [listener.recv(999) for _ in range(3)] == [b"READY=1", b"STATUS=two lines", b"EXTEND_TIMEOUT_USEC=1500000"]


def test_nobody_listens(tmp_path: Path) -> None:
    Notifier("").ready()
    Notifier(str(tmp_path / "gone")).ready()


def test_the_heart_stops_when_a_step_overruns(ear: tuple[str, socket.socket]) -> None:
    address, listener = ear
    with Heartbeat(Notifier(address), interval=0.2) as heart:
        heart.allow(0.3)
        assert listener.recv(99) == b"WATCHDOG=1"
        time.sleep(0.6)
        listener.setblocking(False)
        while True:
            try:
                listener.recv(99)
            except BlockingIOError:
                break
        time.sleep(0.3)
        with pytest.raises(BlockingIOError):
            listener.recv(99)
        heart.allow(10)
        listener.settimeout(2)
        assert listener.recv(99) == b"WATCHDOG=1"


def test_interval_is_for_this_process_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "60000000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    assert watchdog_interval() == 60
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert watchdog_interval() == 0


def test_progress_reads_like_a_sentence(ear: tuple[str, socket.socket], tmp_path: Path) -> None:
    address, listener = ear
    now = [100.0]
    reporter = ServiceReporter(Notifier(address), channel=tmp_path / "progress.json", clock=lambda: now[0])
    reporter.prefix = "reinstall 01J9: "
    reporter.status("write-working")
    assert listener.recv(999) == b"STATUS=reinstall 01J9: write-working\nWATCHDOG=1"
    reporter.progress(0, 1 << 30)
    listener.recv(999)
    now[0] += 10
    reporter.progress(100 << 20, 1 << 30)
    assert listener.recv(999).splitlines()[0].endswith(b"01J9: write-working 9% (10.0 MiB/s, 1 min 32 s left)")
    note = json.loads((tmp_path / "progress.json").read_text())
    assert (note["what"], note["done"], note["total"]) == ("reinstall 01J9: write-working", 100 << 20, 1 << 30)


def test_progress_is_not_a_flood(ear: tuple[str, socket.socket]) -> None:
    address, listener = ear
    now = [0.0]
    reporter = ServiceReporter(Notifier(address), channel=None, clock=lambda: now[0])
    for done in range(1, 101):
        now[0] += 0.01
        reporter.progress(done, 1000)
    listener.setblocking(False)
    heard = 0
    while True:
        try:
            listener.recv(999)
            heard += 1
        except BlockingIOError:
            break
    assert heard <= 3


def test_a_cancel_is_met_in_progress() -> None:
    with pytest.raises(Cancelled):
        ServiceReporter(Notifier(""), channel=None, cancelled=lambda: True).progress(1, 2)
