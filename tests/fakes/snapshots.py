"""Snapshots in memory, over the same state partition as FakeCluster: etcd's data is the file `cluster/etcd/member`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict

from k8r_agent.errors import ClusterError, StateError
from k8r_agent.ports.snapshots import Origin, Snapshot
from tests.fakes.statefiles import FakeStateFiles

MEMBER, PLACE = "cluster/etcd/member", "cluster/snapshots"
KEPT = 2


class FakeSnapshots:
    """`running` says whether etcd answers. `space`: bytes free. `unreadable`: what etcd delivers is damaged."""

    def __init__(self, files: FakeStateFiles, *, running: Callable[[], bool] = lambda: True) -> None:
        self.files, self.running = files, running
        self.space, self.unreadable = 1 << 30, False

    def kept(self) -> tuple[Snapshot, ...]:
        names = [n for n in self.files.names(PLACE) if n.endswith(".json")]
        records = [json.loads(self.files.read(f"{PLACE}/{name}") or b"") for name in reversed(names)]
        return tuple(Snapshot(**{**r, "origin": Origin(**r["origin"])}) for r in records)

    def room(self) -> tuple[int, int]:
        return len(self._member()) + 1024, self.space

    def take(self, origin: Origin, *, time: float) -> Snapshot:
        if self.room()[0] > self.space:
            raise StateError("there is no room for a snapshot of etcd")
        if not self.running():
            raise ClusterError("no snapshot of etcd could be taken", why="context deadline exceeded")
        if self.unreadable:
            raise StateError("the snapshot is damaged", why="it is not what its hash says")
        data, name = self._member(), f"{int(time):012d}.db"
        found = Snapshot(name=name, time=time, size=len(data), sha256=hashlib.sha256(data).hexdigest(), revision=1,
                         keys=1, origin=origin)
        self.files.write(f"{PLACE}/{name}", data)
        self.files.write(f"{PLACE}/{name}.json", json.dumps(asdict(found)).encode())
        for old in (old for old in self.kept()[KEPT:] if old != found):
            self.files.remove(f"{PLACE}/{old.name}.json")
            self.files.remove(f"{PLACE}/{old.name}")
        return found

    def verify(self, snapshot: Snapshot) -> None:
        data = self.files.read(f"{PLACE}/{snapshot.name}") or b""
        if hashlib.sha256(data).hexdigest() != snapshot.sha256:
            raise StateError(f"the snapshot {snapshot.name} is damaged")

    def restore(self, snapshot: Snapshot, *, ident: str) -> None:
        if self.restored(ident=ident):
            return
        assert not self.running(), "etcd runs while its data is replaced"
        self.verify(snapshot)
        before = self.files.read(MEMBER)
        if before is not None:
            self.files.write(f"cluster/etcd.before-{ident}", before)
        self.files.write(f"cluster/restoring-{ident}", b"")
        self.files.write(MEMBER, self.files.read(f"{PLACE}/{snapshot.name}") or b"")
        self.files.write(f"cluster/restored-{ident}", b"")

    def restored(self, *, ident: str) -> bool:
        return self.files.read(f"cluster/restored-{ident}") is not None

    def _member(self) -> bytes:
        data = self.files.read(MEMBER)
        if data is None:
            raise StateError("etcd's data is not where it should be")
        return data
