"""Snapshots and restores: against a real etcd on this machine, and the fake."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest

from k8r_agent.effects import snapshots as effects
from k8r_agent.effects.commands import SubprocessCommands
from k8r_agent.effects.snapshots import StateSnapshots
from k8r_agent.errors import ClusterError, StateError
from k8r_agent.model import etcd
from k8r_agent.ports.commands import Result
from k8r_agent.ports.snapshots import Origin, Snapshots
from tests.fakes.snapshots import MEMBER, FakeSnapshots
from tests.fakes.statefiles import FakeStateFiles

NOW = 1_790_000_000.0


class Store(Protocol):
    origin: Origin

    @property
    def snapshots(self) -> Snapshots: ...

    def put(self, value: str) -> None: ...

    def value(self) -> str: ...

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def before(self) -> list[str]:
        """Data that restores put aside."""


class Real:
    """An etcd of one member, on the loopback interface."""

    def __init__(self, top: Path) -> None:
        self.top = top / "cluster"
        self.ports = _free_ports(2)
        peer = f"http://127.0.0.1:{self.ports[1]}"
        self.origin = Origin(member="n1", peer_url=peer, kubernetes="1.31.4", txn="t1")
        self.snapshots = StateSnapshots(self.etcdctl, self.top)
        self.child: subprocess.Popen[bytes] | None = None

    def etcdctl(self, args: Sequence[str], timeout: float) -> Result:
        endpoint = f"--endpoints=http://127.0.0.1:{self.ports[0]}"
        return SubprocessCommands().run(["etcdctl", endpoint, *args], ok=range(256), timeout=timeout,
                                        env={"ETCDCTL_API": "3"})

    def start(self) -> None:
        client, peer = (f"http://127.0.0.1:{port}" for port in self.ports)
        (self.top / "etcd").mkdir(parents=True, exist_ok=True, mode=0o700)
        self.child = subprocess.Popen(
            ["/usr/bin/etcd", "--name=n1", f"--data-dir={self.top / 'etcd'}", f"--listen-client-urls={client}",
             f"--advertise-client-urls={client}", f"--listen-peer-urls={peer}",
             f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=n1={peer}"],
            stdout=subprocess.DEVNULL, stderr=(self.top / "log").open("ab"))
        for _ in range(100):
            if not self.etcdctl(["endpoint", "health"], 20).code:
                return
            time.sleep(0.1)
        raise AssertionError((self.top / "log").read_text()[-2000:])

    def stop(self) -> None:
        if self.child is not None:
            self.child.send_signal(signal.SIGTERM)
            self.child.wait(20)
        self.child = None

    def put(self, value: str) -> None:
        assert self.etcdctl(["put", "key", value], 20).code == 0

    def value(self) -> str:
        return self.etcdctl(["get", "key", "--print-value-only"], 20).stdout.strip()

    def before(self) -> list[str]:
        return sorted(path.name for path in self.top.glob("etcd.before-*") if (path / "member/snap/db").is_file())


class Fake:
    def __init__(self) -> None:
        self.files, self.up = FakeStateFiles(), False
        self.origin = Origin(member="n1", peer_url="https://192.0.2.1:2380", kubernetes="1.31.4", txn="t1")
        self.snapshots = FakeSnapshots(self.files, running=lambda: self.up)

    def start(self) -> None:
        self.up = True
        if self.files.read(MEMBER) is None:
            self.files.write(MEMBER, b"")

    def stop(self) -> None:
        self.up = False

    def put(self, value: str) -> None:
        self.files.write(MEMBER, value.encode())

    def value(self) -> str:
        return (self.files.read(MEMBER) or b"").decode()

    def before(self) -> list[str]:
        return [name for name in self.files.names("cluster") if name.startswith("etcd.before-")]


def _free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def _real(top: Path) -> Real:
    if not shutil.which("etcd") or not shutil.which("etcdctl"):
        assert not os.environ.get("CI"), "etcd-server and etcd-client are missing"
        pytest.skip("etcd-server and etcd-client are not installed")
    return Real(top)


@pytest.fixture(params=["fake", "real"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made: Store = Fake() if request.param == "fake" else _real(tmp_path)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Real]:
    made = _real(tmp_path)
    made.start()
    yield made
    made.stop()


def test_a_snapshot_is_kept_and_brings_back_what_was(store: Store) -> None:
    store.put("before")
    taken = store.snapshots.take(store.origin, time=NOW)
    assert store.snapshots.kept() == (taken,) and taken.origin == store.origin and taken.keys >= 1
    store.put("after")
    store.stop()
    store.snapshots.restore(taken, ident="t1")
    store.snapshots.restore(taken, ident="t1")
    assert store.snapshots.restored(ident="t1") and not store.snapshots.restored(ident="t2")
    store.start()
    assert store.value() == "before"
    assert store.before() == ["etcd.before-t1"]


@pytest.mark.slow
def test_a_second_restore_keeps_the_data_of_both_lives(store: Store) -> None:
    store.put("one")
    taken = store.snapshots.take(store.origin, time=NOW)
    for ident in ("t1", "t2"):
        store.put(ident)
        store.stop()
        store.snapshots.restore(taken, ident=ident)
        store.start()
        assert store.value() == "one"
    assert store.before() == ["etcd.before-t1", "etcd.before-t2"]


def test_the_last_two_are_kept(store: Store) -> None:
    taken = []
    for number in range(3):
        store.put(str(number))
        taken.append(store.snapshots.take(store.origin, time=NOW + 60 * number))
    assert store.snapshots.kept() == (taken[2], taken[1])


def test_what_was_taken_just_now_stays_also_by_a_clock_that_went_back(store: Store) -> None:
    for later in (120, 60, 0):
        store.put(str(later))
        taken = store.snapshots.take(store.origin, time=NOW + later)
        assert taken in store.snapshots.kept()


def test_an_etcd_that_does_not_answer_gives_none(store: Store) -> None:
    store.put("x")
    store.stop()
    with pytest.raises(ClusterError):
        store.snapshots.take(store.origin, time=NOW)
    assert store.snapshots.kept() == ()


# the real side alone: what etcdctl and the file system may do


def test_without_room_nothing_is_written(real: Real) -> None:
    real.put("x")
    full = StateSnapshots(real.etcdctl, real.top, free=lambda path: 1 << 20)
    with pytest.raises(StateError, match="no room"):
        full.take(real.origin, time=NOW)
    assert not (real.top / "snapshots").exists()


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_snapshot_is_found_and_not_restored(real: Real, damage: str) -> None:
    real.put("x")
    taken = real.snapshots.take(real.origin, time=NOW)
    path = real.top / "snapshots" / taken.name
    raw = bytearray(path.read_bytes())
    raw[9000] ^= 0xFF
    if damage == "flipped":
        path.write_bytes(raw)
        assert real.etcdctl(["snapshot", "status", str(path)], 20).code == 0, "etcdctl alone would have noticed"
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-512])
    else:
        path.unlink()
    with pytest.raises(StateError):
        real.snapshots.verify(taken)
    if damage != "flipped":
        assert real.snapshots.kept() == ()
    real.stop()
    with pytest.raises(StateError):
        real.snapshots.restore(taken, ident="t1")
    assert real.before() == [] and not real.snapshots.restored(ident="t1")
    real.start()
    assert real.value() == "x"


def test_a_snapshot_that_was_cut_short_is_not_one(real: Real) -> None:
    real.put("x")

    def lying(args: Sequence[str], timeout: float) -> Result:
        result = real.etcdctl(args, timeout)
        if args[1] == "save":
            Path(args[2]).write_bytes(Path(args[2]).read_bytes()[:20000])
        return result

    with pytest.raises(StateError):
        StateSnapshots(lying, real.top).take(real.origin, time=NOW)
    assert real.snapshots.kept() == ()
    real.snapshots.take(real.origin, time=NOW)
    assert [p.name for p in (real.top / "snapshots").iterdir() if p.name.startswith(".")] == []


class Killed(BaseException):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("point", range(12))
def test_a_restore_that_was_killed_goes_on(real: Real, monkeypatch: pytest.MonkeyPatch, point: int) -> None:
    """Before each rename, sync and run of etcdctl."""
    real.put("before")
    taken = real.snapshots.take(real.origin, time=NOW)
    real.put("after")
    real.stop()
    count = [0]

    def dying(call: Callable[..., Any]) -> Callable[..., Any]:
        def first(*args: Any) -> Any:
            count[0] += 1
            if count[0] == point + 1:
                raise Killed
            return call(*args)
        return first

    with monkeypatch.context() as patch:
        patch.setattr(effects, "_swap", dying(effects._swap))
        patch.setattr(effects, "_sync", dying(effects._sync))
        patch.setattr(os, "rename", dying(os.rename))
        try:
            StateSnapshots(dying(real.etcdctl), real.top).restore(taken, ident="t1")
        except Killed:
            pass
    data = real.top / "etcd/member"
    assert data.is_dir(), "at no instant is there no data"
    real.snapshots.restore(taken, ident="t1")
    real.start()
    assert real.value() == "before" and real.before() == ["etcd.before-t1"]


def test_members_as_etcd_lists_them(real: Real) -> None:
    found = etcd.members(real.etcdctl(["member", "list", "-w", "json", *etcd.PATIENT], 20).stdout)
    assert [(m.name, m.peer_urls, m.learner) for m in found] == [("n1", (real.origin.peer_url,), False)]
    health = real.etcdctl(["endpoint", "health", "--cluster", "-w", "json", *etcd.PATIENT], 20)
    assert etcd.unhealthy(health.stdout) == {}
    assert etcd.quorum(found, {}, etcd.mine(found, name="n1", address="127.0.0.1")).single


@pytest.mark.parametrize("ask", [
    lambda real: not real.etcdctl(["endpoint", "health", *etcd.PATIENT], 60).code,
    lambda real: real.snapshots.take(real.origin, time=NOW).keys > 0], ids=["health", "snapshot"])
def test_a_slow_answer_is_waited_for(real: Real, ask: Callable[[Real], bool]) -> None:
    """etcdctl alone gives up after five seconds."""
    real.put("x")
    assert real.child is not None
    real.child.send_signal(signal.SIGSTOP)
    awake = threading.Timer(7.0, real.child.send_signal, [signal.SIGCONT])
    awake.start()
    try:
        assert ask(real)
    finally:
        awake.join()
