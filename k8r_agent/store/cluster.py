"""The node's membership of a cluster, and what it needs to come back: below `cluster/` on the state partition.

    membership.json      which cluster, which role and why
    join.json            a join secret that was handed over and not used yet
    root/<path>          files of the running root as they were kept, under the path that they have there
    etcd/                etcd's data directory, bound over /var/lib/etcd; nothing here touches it
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from k8r_agent.errors import StateError
from k8r_agent.model.cluster import JoinSecret, Membership, Phase
from k8r_agent.ports.statefiles import StateFiles
from k8r_agent.store import jsonfile

FORMAT = 1
MEMBERSHIP, JOIN, ROOT = "cluster/membership.json", "cluster/join.json", "cluster/root"
OWED = "cluster/network.owed"  # k8r-join.service looks whether it is there


def membership(files: StateFiles) -> Membership | None:
    """None: this node was never told to enter a cluster. Raises StateError for a record that makes no sense; it is
    left where it is, because a node that forgets its cluster would make another one."""
    record = jsonfile.load(files, MEMBERSHIP, format_now=FORMAT, quarantine=False)
    if record is None:
        return None
    known = {name: record[name] for name in Membership.__dataclass_fields__ if name in record}
    try:
        return Membership(**{**known, "phase": Phase(record["phase"])})
    except (ValueError, KeyError, TypeError) as error:
        raise StateError(f"{MEMBERSHIP} is damaged", why=f"{type(error).__name__}: {error}",
                         hint="k8r-recovery(7)") from None


def remember(files: StateFiles, value: Membership) -> None:
    """Durable; fields of a newer release stay."""
    before: dict[str, Any] = jsonfile.load(files, MEMBERSHIP, format_now=FORMAT, quarantine=False) or {}
    record = {**before, **asdict(value), "phase": str(value.phase), "format": before.get("format", FORMAT)}
    if record != before:
        files.write(MEMBERSHIP, jsonfile.encode(record))


def owe_network(files: StateFiles, *, owed: bool = True) -> None:
    """The cluster that this node made has no pod network yet."""
    files.write(OWED, b"") if owed else files.remove(OWED)


def join_secret(files: StateFiles) -> JoinSecret | None:
    record = jsonfile.load(files, JOIN, format_now=FORMAT)
    if record is None:
        return None
    hashes = record.get("ca_hashes", ())
    if not isinstance(hashes, (list, tuple)):
        raise StateError(f"{JOIN} is damaged", why="ca_hashes is no list", hint="`k8r-agent join` once more")
    return JoinSecret(endpoint=str(record.get("endpoint", "")), token=str(record.get("token", "")),
                      ca_hashes=tuple(map(str, hashes)),
                      certificate_key=str(record.get("certificate_key", "")), role=str(record.get("role", "")))


def keep_join_secret(files: StateFiles, value: JoinSecret) -> None:
    files.write(JOIN, jsonfile.encode({**asdict(value), "format": FORMAT}))


def drop_join_secret(files: StateFiles) -> None:
    files.remove(JOIN)


# files of the root


def kept(files: StateFiles, path: str) -> bytes | None:
    return files.read(f"{ROOT}/{path}")


def keep(files: StateFiles, path: str, data: bytes) -> None:
    if kept(files, path) != data:
        files.write(f"{ROOT}/{path}", data)


def forget(files: StateFiles, path: str) -> None:
    files.remove(f"{ROOT}/{path}")


def kept_paths(files: StateFiles, below: str) -> tuple[str, ...]:
    """All kept files below a directory, as paths of the root."""
    return tuple(sorted(_walk(files, below)))


def _walk(files: StateFiles, path: str) -> Iterator[str]:
    for name in files.names(f"{ROOT}/{path}"):
        inner = f"{path}/{name}"
        if files.names(f"{ROOT}/{inner}"):
            yield from _walk(files, inner)
        else:
            yield inner
