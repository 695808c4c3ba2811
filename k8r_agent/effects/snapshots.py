"""Snapshots of etcd on the state partition.

    cluster/snapshots/<time>.db and .json   the store as `etcdctl snapshot save` brought it, and what is known of it
    cluster/etcd/                           the data (bound over /var/lib/etcd)
    cluster/etcd.restored-<ident>/          data made of a snapshot, until it is swapped in
    cluster/etcd.before-<ident>/            the data that was there before; nobody here deletes it

etcdctl's own check is not enough: `snapshot status` was seen to accept a file with flipped bytes. The store is
followed by its SHA-256 (etcd, etcdserver/api/v3rpc/maintenance.go), so that is checked.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time as clock
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from k8r_agent.effects.placing import place, read
from k8r_agent.errors import ClusterError, StateError
from k8r_agent.model import etcd
from k8r_agent.model.units import format_size
from k8r_agent.ports.commands import Result
from k8r_agent.ports.snapshots import Origin, Snapshot

KEPT = 2
_DIGEST = 32  # bytes of SHA-256 after the store
_PAGE = 512  # a store is a whole number of these
_SPARE = 32 << 20  # bytes that stay free for the journal, the identity and etcd itself
_MARK = "restored-from"  # in member/, written last: etcd looks at snap/ and wal/ only
_EXCHANGE, _HERE = 2, -100  # RENAME_EXCHANGE of <linux/fs.h>, AT_FDCWD of <fcntl.h>
Etcdctl = Callable[[Sequence[str], float], Result]


class StateSnapshots:
    """The Snapshots port. `directory` is `cluster` on the state partition; `etcdctl(args, timeout)` reaches this
    node's own member and returns any exit code."""

    def __init__(self, etcdctl: Etcdctl, directory: Path = Path("/var/lib/k8r/cluster"), *,
                 free: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free) -> None:
        self._etcdctl, self._directory, self._free = etcdctl, directory, free
        self._place = directory / "snapshots"

    def kept(self) -> tuple[Snapshot, ...]:
        found = []
        for path in sorted(self._place.glob("*.json"), reverse=True):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                record = json.loads(path.read_bytes())
                snapshot = Snapshot(**{**record, "origin": Origin(**record["origin"])})
                if (self._place / snapshot.name).stat().st_size == snapshot.size:
                    found.append(snapshot)
        return tuple(found)

    def room(self) -> tuple[int, int]:
        try:
            store = (self._directory / "etcd/member/snap/db").stat().st_size
            return store + _SPARE, self._free(self._directory)
        except OSError as error:
            raise StateError("etcd's data is not where it should be", why=error.strerror or str(error),
                             hint=f"{self._directory}/etcd holds it on the state partition") from error

    def take(self, origin: Origin, *, time: float) -> Snapshot:
        needed, free = self.room()
        if free < needed:
            raise StateError("there is no room for a snapshot of etcd", why=f"{format_size(needed)} are needed on the "
                             f"state partition, {format_size(free)} are free",
                             hint=f"look for etcd.before-* in {self._directory}: data of earlier restores")
        self._run(["endpoint", "health", *etcd.PATIENT], "etcd is not healthy")  # `snapshot save` would wait for ever
        name = clock.strftime("%Y%m%dT%H%M%SZ", clock.gmtime(time)) + ".db"
        temporary = self._place / f".{name}.new"
        with _explained("a snapshot cannot be kept"):
            self._place.mkdir(mode=0o700, parents=True, exist_ok=True)
            for left in self._place.glob(".*"):  # of one that was cut short
                left.unlink()
            self._run(["snapshot", "save", str(temporary)], "no snapshot of etcd could be taken")
            os.chmod(temporary, 0o600)
            _sync(temporary)
            snapshot = self._looked_at(temporary, name, time, origin)
            os.replace(temporary, self._place / name)
            _sync(self._place)
            place(self._place / f"{name}.json", json.dumps(asdict(snapshot), indent=1).encode(), mode=0o600)
            _sync(self._place)
            self._prune(taken=name)
        return snapshot

    def _looked_at(self, path: Path, name: str, time: float, origin: Origin) -> Snapshot:
        digest = _whole(path)
        said = self._run(["snapshot", "status", str(path), "-w", "json"], "the snapshot of etcd cannot be read")
        try:
            status = etcd.status(said.stdout)
        except ValueError as error:
            raise ClusterError("the snapshot of etcd makes no sense", why=str(error)) from None
        return Snapshot(name=name, time=time, size=path.stat().st_size, sha256=digest, revision=status.revision,
                        keys=status.keys, origin=origin)

    def _prune(self, *, taken: str) -> None:
        """What was taken just now stays, also when the clock says that it is the oldest."""
        names = {taken, *(snapshot.name for snapshot in self.kept()[:KEPT])}
        wanted = names | {f"{name}.json" for name in names}
        for path in self._place.iterdir():
            if path.name not in wanted:
                path.unlink()

    def verify(self, snapshot: Snapshot) -> None:
        with _explained(f"the snapshot {snapshot.name} cannot be read"):
            if _whole(self._place / snapshot.name) != snapshot.sha256:
                raise StateError(f"the snapshot {snapshot.name} is damaged", why="its hash is another one")

    # restoring

    def restored(self, *, ident: str) -> bool:
        return read(self._directory / "etcd/member" / _MARK) == ident.encode()

    def restore(self, snapshot: Snapshot, *, ident: str) -> None:
        data, fresh = self._directory / "etcd", self._directory / f"etcd.restored-{ident}"
        with _explained("etcd's data was not restored"):
            if not self.restored(ident=ident):
                if read(fresh / "member" / _MARK) != ident.encode():
                    self._make(snapshot, fresh, ident)
                data.mkdir(mode=0o700, exist_ok=True)
                _swap(fresh / "member", data / "member")
            if fresh.exists():  # holds the data of before now, or nothing if there was none
                os.rename(fresh, self._directory / f"etcd.before-{ident}")
                _sync(self._directory)

    def _make(self, snapshot: Snapshot, fresh: Path, ident: str) -> None:
        """The mark is the last thing written: what has none is a restore that was cut short."""
        self.verify(snapshot)
        if fresh.exists():
            shutil.rmtree(fresh)
        origin = snapshot.origin
        self._run(etcd.restore_args(str(self._place / snapshot.name), str(fresh), name=origin.member,
                                    peer_url=origin.peer_url), f"the snapshot {snapshot.name} cannot be restored")
        os.chmod(fresh, 0o700)
        for path in sorted(fresh.rglob("*"), reverse=True):
            _sync(path)
        place(fresh / "member" / _MARK, ident.encode(), mode=0o600)
        for path in (fresh / "member", fresh, self._directory):
            _sync(path)

    def _run(self, args: Sequence[str], what: str) -> Result:
        result = self._etcdctl(args, 600.0)
        if result.code:
            lines = [line for line in result.stderr.splitlines() if line.strip() and not line.startswith("{")]
            raise ClusterError(what, why="; ".join(lines[-3:]) or f"etcdctl ended with {result.code}",
                               hint="is etcd healthy? `etcdctl endpoint health`")
        return result


def _whole(path: Path) -> str:
    """SHA-256 of the store. Raises StateError unless it is the one that follows it."""
    size, digest = path.stat().st_size, hashlib.sha256()
    if size % _PAGE != _DIGEST:
        raise StateError(f"the snapshot {path.name} is not whole", why=f"{size} bytes are no store and a hash")
    with path.open("rb") as file:
        left = size - _DIGEST
        while left:
            piece = file.read(min(left, 1 << 20))
            if not piece:
                raise StateError(f"the snapshot {path.name} is not whole", why="it ends early")
            digest.update(piece)
            left -= len(piece)
        if file.read() != digest.digest():
            raise StateError(f"the snapshot {path.name} is damaged", why="it is not what its hash says")
    return digest.hexdigest()


def _swap(fresh: Path, there: Path) -> None:
    """The two change places in one step; where there is nothing yet, `fresh` is moved."""
    import ctypes

    if not there.exists():
        os.rename(fresh, there)
    else:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.renameat2(_HERE, os.fsencode(fresh), _HERE, os.fsencode(there), _EXCHANGE):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    for directory in (there.parent, fresh.parent):
        _sync(directory)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StateError(what, why=f"{error.filename or ''}: {error.strerror or error}".removeprefix(": "),
                         hint="the state partition may be full or failing: `k8r-agent status`") from error
