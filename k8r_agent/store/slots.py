"""What is in each slot, the manifests that are kept, and the release floor."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from k8r_agent.errors import StateError
from k8r_agent.model.slots import Slot, SlotState, SlotStatus
from k8r_agent.ports.statefiles import StateFiles
from k8r_agent.store import jsonfile

if TYPE_CHECKING:
    from k8r_agent.ports.step import Slots

FORMAT = 1
NAME = "slots.json"
FLOOR = "release-floor"
KEPT_RELEASES = 2  # the current one and the one to roll back to
_CONFIRMED = 32  # releases remembered as confirmed
_DIGITS = 18  # more make no release number
_FILE_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"


class SlotStore:
    """The Slots port over StateFiles. With a damaged slots.json the slots are of unknown content."""

    def __init__(self, files: StateFiles) -> None:
        self._files = files

    def status(self, slot: Slot) -> SlotStatus:
        return _status(self._record().get("slots", {}).get(str(slot)))

    def set_status(self, slot: Slot, status: SlotStatus) -> None:
        record = self._record(mend=True)
        slots = dict(record.get("slots", {}))
        slots[str(slot)] = {**(slots.get(str(slot)) or {}), "state": str(status.state), "release": status.release,
                            "version": status.version, "digest": status.digest, "txn": status.txn,
                            "time": status.time, "accepted": list(status.accepted), "by_hand": status.by_hand}
        self._write({**record, "slots": slots})

    def keep(self, release: int, files: Mapping[str, bytes]) -> None:
        """Files first, then the list that names them: a power cut in between leaves a directory nobody reads."""
        for name, data in files.items():
            if not re.fullmatch(_FILE_NAME, name):
                raise StateError(f"{name!r} cannot be kept", why="not a bare file name")
            self._files.write(f"manifests/{release}/{name}", data)
        record = self._record(mend=True)
        kept = self._order(record, release)
        if kept != list(_numbers(record, "kept")):
            self._write({**record, "kept": kept})
        for directory in self._files.names("manifests"):
            if directory not in map(str, kept):
                for name in self._files.names(f"manifests/{directory}"):
                    self._files.remove(f"manifests/{directory}/{name}")

    def _order(self, record: Mapping[str, Any], release: int) -> list[int]:
        """What the node runs is what it would go back to, however many releases passed through the image slot since;
        but not to one that never got well."""
        before, confirmed = _numbers(record, "kept"), _numbers(record, "confirmed")
        good = [r for r in before if not confirmed or r in confirmed]
        runs = [r for r in good if r == self.status(Slot.WORKING).release]
        return list(dict.fromkeys((release, *runs, *good, *before)))[:KEPT_RELEASES]

    def kept(self, release: int, name: str) -> bytes | None:
        return self._files.read(f"manifests/{release}/{name}") if release in self.kept_releases() else None

    def kept_releases(self) -> tuple[int, ...]:
        """Latest kept first."""
        return _numbers(self._record(), "kept")

    def confirmed_releases(self) -> tuple[int, ...]:
        """Latest confirmed first; () also where an older agent confirmed."""
        return _numbers(self._record(), "confirmed")

    def release_floor(self) -> int:
        found, damage = self._floor()
        return self._recovered_floor() if damage else found

    def raise_floor(self, release: int) -> None:
        if self._floor()[1]:
            self._mend_floor()
        if release > self.release_floor():
            self._files.write(FLOOR, f"{release}\n".encode())
        record = self._record(mend=True)
        before = _numbers(record, "confirmed")
        if release and before[:1] != (release,):
            self._write({**record, "confirmed": list(dict.fromkeys((release, *before)))[:_CONFIRMED]})

    # damage

    def problems(self) -> tuple[str, ...]:
        """Damaged records, and what holds instead. Changes nothing."""
        damage = self._damage()
        return (*((f"{damage}; both slots count as unknown",) if damage else ()), *self._floor_problem())

    def mend(self) -> tuple[str, ...]:
        """Set damaged records aside and say so. For the runner: whoever only looks leaves everything as it is."""
        said = self.problems()
        if self._floor()[1]:
            self._mend_floor()  # first: it is recovered from the other record where that is whole
        self._record(mend=True)
        return said

    def _floor(self) -> tuple[int, str]:
        """The stored number, or what is wrong with it."""
        raw = self._files.read(FLOOR)
        text = "0" if raw is None else raw.decode("ascii", "replace").strip()
        if text.isascii() and text.isdecimal() and len(text) < _DIGITS:
            return int(text), ""
        return 0, f"{FLOOR} is damaged: {text[:40]!r} is not a release"

    def _floor_problem(self) -> tuple[str, ...]:
        damage = self._floor()[1]
        return (f"{damage}; taken as {self._recovered_floor()}, by what is known of the slots",) if damage else ()

    def _recovered_floor(self) -> int:
        """Rather too high than too low: a node that accepts an older release by mistake can be attacked through it."""
        if confirmed := self.confirmed_releases():
            return max(confirmed)
        runs = self.status(Slot.WORKING)
        kept = (int(name) for name in self._files.names("manifests") if name.isascii() and name.isdecimal())
        return runs.release if runs.state is SlotState.OK else max(kept, default=0)

    def _mend_floor(self) -> None:
        """The copy first, then the good one in place of the bad: at no instant is there none."""
        recovered = self._recovered_floor()
        jsonfile.copy_aside(self._files, FLOOR, self._files.read(FLOOR) or b"")
        self._files.write(FLOOR, f"{recovered}\n".encode())

    def _damage(self) -> str:
        """What is wrong with slots.json. Raises StateError for one of another release, which is not damaged."""
        try:
            jsonfile.load(self._files, NAME, format_now=FORMAT, quarantine=False)
        except jsonfile.Damaged as error:
            return str(error)
        return ""

    def _record(self, *, mend: bool = False) -> dict[str, Any]:
        """Empty where it is damaged, which is set aside only for whoever is about to write."""
        try:
            record = jsonfile.load(self._files, NAME, format_now=FORMAT, quarantine=mend)
        except jsonfile.Damaged:
            record = None
        if record is None or not isinstance(record.get("slots", {}), dict):
            return {"format": FORMAT, "slots": {}}
        return record

    def _write(self, record: Mapping[str, Any]) -> None:
        self._files.write(NAME, jsonfile.encode({**record, "format": FORMAT}))


def before(slots: Slots, release: int) -> int:
    """The kept release to go back to from `release`, 0 for none. One that was confirmed before one that was not."""
    older = [kept for kept in slots.kept_releases() if kept < release]
    confirmed = slots.confirmed_releases()
    return max((kept for kept in older if kept in confirmed), default=max(older, default=0))


def _numbers(record: Mapping[str, Any], key: str) -> tuple[int, ...]:
    found = record.get(key, [])
    return tuple(r for r in found if type(r) is int) if isinstance(found, list) else ()


def _status(entry: object) -> SlotStatus:
    """A state that this release does not know, or a field of the wrong type, means: content unknown."""
    if not isinstance(entry, dict):
        return SlotStatus()
    try:
        return SlotStatus(state=SlotState(entry["state"]), release=int(entry.get("release", 0)),
                          version=str(entry.get("version", "")), digest=str(entry.get("digest", "")),
                          txn=str(entry.get("txn", "")), time=float(entry.get("time", 0)),
                          accepted=tuple(str(name) for name in entry.get("accepted", ())),
                          by_hand=str(entry.get("by_hand", "")))
    except (ValueError, TypeError, KeyError):
        return SlotStatus()
