"""An upgrade of the control plane that was begun and has not ended: from what, to what, and what to go back to."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from k8r_agent.errors import StateError
from k8r_agent.ports.statefiles import StateFiles
from k8r_agent.store import jsonfile

NAME, MANIFESTS = "cluster/upgrade.json", "cluster/upgrade"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Upgrade:
    """`before` and `after`: versions of Kubernetes. `snapshot`: name of etcd's, taken just before. `alone`: etcd
    has no other member. `first`: of the cluster's control planes, as it was when the upgrade was begun: the addons are
    its business, and kubeadm writes the new version down before it comes to them. `restoring`: the data of the
    snapshot is being put back; there is no way but to the end of that. `owed`: the control plane is well at `after`,
    nothing is to be put back, but whether kubeadm came to the addons is not known."""

    txn: str
    before: str
    after: str
    release: int
    snapshot: str = ""
    alone: bool = False
    first: bool = True
    restoring: bool = False
    owed: bool = False


def load(files: StateFiles) -> Upgrade | None:
    """Raises StateError for a record that makes no sense: what was begun must not be forgotten."""
    record = jsonfile.load(files, NAME, format_now=FORMAT, quarantine=False)
    if record is None:
        return None
    try:
        return Upgrade(**{name: record[name] for name in Upgrade.__dataclass_fields__ if name in record})
    except TypeError as error:
        raise StateError(f"{NAME} is damaged", why=str(error), hint="k8r-recovery(7)") from None


def save(files: StateFiles, value: Upgrade) -> None:
    """Durable on return."""
    files.write(NAME, jsonfile.encode({**asdict(value), "format": FORMAT}))


def drop(files: StateFiles) -> None:
    """The record first: manifests without one are what nobody reads."""
    files.remove(NAME)
    for name in files.names(MANIFESTS):
        files.remove(f"{MANIFESTS}/{name}")


def keep_manifest(files: StateFiles, name: str, data: bytes) -> None:
    files.write(f"{MANIFESTS}/{name}", data)


def manifests(files: StateFiles) -> dict[str, bytes]:
    return {name: files.read(f"{MANIFESTS}/{name}") or b"" for name in files.names(MANIFESTS)}
