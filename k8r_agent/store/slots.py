"""What is in each slot, the manifests that are kept, and the release floor."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from k8r_agent.errors import StateError
from k8r_agent.model.slots import Slot, SlotState, SlotStatus
from k8r_agent.ports.statefiles import StateFiles
from k8r_agent.store import jsonfile

FORMAT = 1
NAME = "slots.json"
FLOOR = "release-floor"
KEPT_RELEASES = 2  # the current one and the one to roll back to
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class SlotStore:
    """The Slots port over StateFiles. A damaged slots.json is set aside; the slots are then of unknown content."""

    def __init__(self, files: StateFiles) -> None:
        self._files = files

    def status(self, slot: Slot) -> SlotStatus:
        return _status(self._record().get("slots", {}).get(str(slot)))

    def set_status(self, slot: Slot, status: SlotStatus) -> None:
        record = self._record()
        slots = dict(record.get("slots", {}))
        slots[str(slot)] = {**(slots.get(str(slot)) or {}), "state": str(status.state), "release": status.release,
                            "version": status.version, "digest": status.digest, "txn": status.txn,
                            "time": status.time, "accepted": list(status.accepted)}
        self._write({**record, "slots": slots})

    def keep(self, release: int, files: Mapping[str, bytes]) -> None:
        """Files first, then the list that names them: a power cut in between leaves a directory nobody reads."""
        for name, data in files.items():
            if not _FILE_NAME.fullmatch(name):
                raise StateError(f"{name!r} cannot be kept", why="not a bare file name")
            self._files.write(f"manifests/{release}/{name}", data)
        record = self._record()
        # What the node runs is what it would go back to, however many releases passed through the image slot since.
        before, runs = _kept(record), self.status(Slot.WORKING).release
        order = (release, *(r for r in before if r == runs), *before)
        kept = list(dict.fromkeys(order))[:KEPT_RELEASES]
        if kept != list(_kept(record)):
            self._write({**record, "kept": kept})
        for directory in self._files.names("manifests"):
            if directory not in map(str, kept):
                for name in self._files.names(f"manifests/{directory}"):
                    self._files.remove(f"manifests/{directory}/{name}")

    def kept(self, release: int, name: str) -> bytes | None:
        return self._files.read(f"manifests/{release}/{name}") if release in self.kept_releases() else None

    def kept_releases(self) -> tuple[int, ...]:
        """Latest kept first."""
        return _kept(self._record())

    def release_floor(self) -> int:
        raw = self._files.read(FLOOR)
        if raw is None:
            return 0
        try:
            return int(raw.decode().strip())
        except ValueError as error:
            raise StateError(f"{FLOOR} is damaged", why=str(error),
                             hint="write the highest release this node ever confirmed into it") from None

    def raise_floor(self, release: int) -> None:
        if release > self.release_floor():
            self._files.write(FLOOR, f"{release}\n".encode())

    def _record(self) -> dict[str, Any]:
        try:
            record = jsonfile.load(self._files, NAME, format_now=FORMAT)
        except StateError:
            if self._files.read(NAME) is not None:  # not damaged (that is set aside) but out of reach
                raise
            record = None
        if record is None or not isinstance(record.get("slots", {}), dict):
            return {"format": FORMAT, "slots": {}}
        return record

    def _write(self, record: Mapping[str, Any]) -> None:
        self._files.write(NAME, jsonfile.encode({**record, "format": FORMAT}))


def _kept(record: Mapping[str, Any]) -> tuple[int, ...]:
    kept = record.get("kept", [])
    return tuple(r for r in kept if isinstance(r, int)) if isinstance(kept, list) else ()


def _status(entry: object) -> SlotStatus:
    """A state that this release does not know, or a field of the wrong type, means: content unknown."""
    if not isinstance(entry, dict):
        return SlotStatus()
    try:
        return SlotStatus(state=SlotState(entry["state"]), release=int(entry.get("release", 0)),
                          version=str(entry.get("version", "")), digest=str(entry.get("digest", "")),
                          txn=str(entry.get("txn", "")), time=float(entry.get("time", 0)),
                          accepted=tuple(str(name) for name in entry.get("accepted", ())))
    except (ValueError, TypeError, KeyError):
        return SlotStatus()
