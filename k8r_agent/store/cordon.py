"""That this agent cordoned the node, until it has undone that: a record that outlives the transaction.

Written before the Node is changed. An administrator's own cordon is none of ours and leaves no record.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from k8r_agent.errors import StateError
from k8r_agent.ports.statefiles import StateFiles
from k8r_agent.store import jsonfile

NAME = "cluster/cordon.json"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Cordon:
    """`node`: its name in the cluster. `time`: seconds since the epoch."""

    node: str
    txn: str
    time: float


def load(files: StateFiles) -> Cordon | None:
    """A damaged record is set aside, and then there is none: the annotation on the Node still tells."""
    try:
        record = jsonfile.load(files, NAME, format_now=FORMAT)
        return None if record is None else Cordon(node=str(record["node"]), txn=str(record["txn"]),
                                                  time=float(record.get("time", 0)))
    except (StateError, KeyError, ValueError, TypeError):
        return None


def save(files: StateFiles, value: Cordon) -> None:
    """Durable on return."""
    files.write(NAME, jsonfile.encode({**asdict(value), "format": FORMAT}))


def drop(files: StateFiles) -> None:
    files.remove(NAME)
