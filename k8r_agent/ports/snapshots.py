"""Copies of etcd's data on the state partition, and putting one of them in the data's place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Whose data: what a restore has to give back. `peer_url` as in the member list, `kubernetes` the version of the
    control plane that wrote it (`1.31.4`), `txn` the transaction that asked for it."""

    member: str
    peer_url: str
    kubernetes: str
    txn: str


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A verified one. `time` in seconds since the epoch, `size` in bytes, `sha256` of the store in hexadecimal,
    `revision` and `keys` as etcd counts them."""

    name: str
    time: float
    size: int
    sha256: str
    revision: int
    keys: int
    origin: Origin


class Snapshots(Protocol):
    """All raise StateError when the state partition does not let them, ClusterError when etcd or etcdctl does not."""

    def kept(self) -> tuple[Snapshot, ...]:
        """Newest first; only those that were verified when they were taken."""

    def room(self) -> tuple[int, int]:
        """Bytes that a new one needs at most, bytes free."""

    def take(self, origin: Origin, *, time: float) -> Snapshot:
        """Save, verify, only then give it its name; drop all but the newest ones. Raises StateError when there is no
        room, before anything is written."""

    def verify(self, snapshot: Snapshot) -> None:
        """Read it again. Raises StateError when it is not what it was."""

    def restore(self, snapshot: Snapshot, *, ident: str) -> None:
        """Put its data where etcd's data is, by one rename; what was there stays beside it and is never deleted. etcd
        must not run. Once for each `ident`: after a kill it goes on, and when it is done it does nothing."""

    def restored(self, *, ident: str) -> bool:
        """That restore() is done."""


class NoSnapshots:
    """Of a node without a place for them."""

    def kept(self) -> tuple[Snapshot, ...]:
        return ()

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"{name}() on a node that keeps no snapshots")
