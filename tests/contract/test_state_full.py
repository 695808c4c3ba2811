"""A state partition without a free block, on a real ext4: what the agent keeps stays as it was, what it cannot write
it says, and etcd's directory on the same partition is nobody's business.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from k8r_agent.effects.statefiles import StateDirectory
from k8r_agent.errors import StateError
from k8r_agent.model.slots import Slot, SlotState, SlotStatus
from k8r_agent.model.txn import Event, Request, Transaction
from k8r_agent.ports.statefiles import StateFiles
from k8r_agent.steps import duties
from k8r_agent.store.events import EventLog
from k8r_agent.store.journal import Journal
from k8r_agent.store.queue import Queue
from k8r_agent.store.slots import SlotStore

pytestmark = [pytest.mark.root, pytest.mark.loop]
TXN = Transaction(id="20261121T120000.000000Z-0000", task="update", steps=("check-bundle",), note="x" * 20_000)
ACTIONS: dict[str, Callable[[StateFiles], object]] = {
    "journal": lambda files: Journal(files).save(TXN),
    "slots": lambda files: SlotStore(files).set_status(Slot.IMAGE, SlotStatus(
        state=SlotState.OK, release=2, version="v" * 20_000)),
    "manifest": lambda files: SlotStore(files).keep(2, {"manifest.toml": b"m" * 20_000}),
    "request": lambda files: Queue(files).put(Request(
        id="20261121T120000.000000Z-0001", task="update", args={"source": "s" * 10_000}, requested_by="x", time=1.0)),
    "counters": lambda files: duties.save(files, duties.Counters(automatic={f"{n:064d}": 1 for n in range(200)})),
}


@pytest.fixture(params=[8 << 20, 256 << 20], ids=["8-MiB", "256-MiB"])
def full(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """With an etcd on it, and no free block. Of the larger one ext4 keeps more back than the agent asks for."""
    disk, mount = tmp_path / "disk", tmp_path / "mount"
    with disk.open("wb") as file:
        file.truncate(request.param)
    mount.mkdir()
    subprocess.run(["/sbin/mkfs.ext4", "-q", "-m", "0", str(disk)], check=True)
    subprocess.run(["mount", "-o", "loop", str(disk), str(mount)], check=True)
    try:
        (mount / "etcd/member").mkdir(parents=True)
        (mount / "etcd/member/0.wal").write_bytes(os.urandom(100_000))
        files = StateDirectory(mount)
        EventLog(files).append(Event(time=1.0, txn="", task="update", step="", kind="note", message="before"))
        files.write("release-floor", b"1\n")
        with (mount / "ballast").open("wb", buffering=0) as ballast:
            for size in (1 << 20, 4096):
                try:
                    while ballast.write(bytes(size)) == size:
                        pass
                except OSError:
                    continue
        yield mount
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def etcd(mount: Path) -> list[tuple[str, bytes, int]]:
    return [(str(path), path.read_bytes() if path.is_file() else b"", path.stat().st_mtime_ns)
            for path in sorted((mount / "etcd").rglob("*"))]


@pytest.mark.fault(7)
def test_every_store_says_that_there_is_no_room(full: Path) -> None:
    files, before = StateDirectory(full), etcd(full)
    names = {name: files.names(name) for name in ("", "queue", "manifests")}
    for name, act in ACTIONS.items():
        with pytest.raises(StateError, match="No space left") as failure:
            act(files)
        assert "free space" in failure.value.hint, name
    EventLog(files).append(Event(time=2.0, txn="", task="update", step="", kind="note", message="y" * 2000))
    assert EventLog(files).read()[0].message == "before"
    assert SlotStore(files).release_floor() == 1 and Journal(files).load() is None
    assert SlotStore(files).status(Slot.IMAGE).release == 0 and not Queue(files).pending()
    assert set(files.names("")) - set(names[""]) <= {"queue", "manifests"} and files.names("queue") == ()
    assert etcd(full) == before
    (full / "ballast").unlink()
    for act in ACTIONS.values():
        act(files)
    assert Journal(files).load() == TXN and SlotStore(files).status(Slot.IMAGE).release == 2
    assert etcd(full) == before


@pytest.mark.fault(7)
def test_somebody_who_only_looks_sees_it_too(full: Path) -> None:
    assert StateDirectory(full).trouble()[0] == "the state partition is full"
    (full / "ballast").unlink()
    os.sync()
    assert StateDirectory(full).trouble() == ("", "")
