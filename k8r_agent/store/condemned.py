"""Releases that this node tried and that did not work here: the update check does not bring them again.

Recorded under the release's number; an update that is forced takes one all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from k8r_agent.errors import StateError
from k8r_agent.ports.statefiles import StateFiles
from k8r_agent.store import jsonfile

NAME = "quarantined-releases.json"
FORMAT = 1
_KEPT = 16  # the latest ones


@dataclass(frozen=True, kw_only=True)
class Condemned:
    """`time`: seconds since the epoch."""

    release: int
    why: str
    time: float


def load(files: StateFiles) -> tuple[Condemned, ...]:
    """By release. A record that cannot be read condemns nothing: rather one update too many than none for ever."""
    try:
        record = jsonfile.load(files, NAME, format_now=FORMAT, quarantine=False) or {}
        found = {int(number): _entry(int(number), entry) for number, entry in record.get("releases", {}).items()}
    except (StateError, ValueError, TypeError, KeyError, AttributeError):
        return ()
    return tuple(found[number] for number in sorted(found))


def _entry(release: int, entry: Mapping[str, Any]) -> Condemned:
    return Condemned(release=release, why=str(entry["why"]), time=float(entry.get("time", 0)))


def find(files: StateFiles, release: int) -> Condemned | None:
    return next((one for one in load(files) if one.release == release), None)


def add(files: StateFiles, value: Condemned) -> None:
    """Durable on return."""
    _save(files, [*(one for one in load(files) if one.release != value.release), value])


def forgive(files: StateFiles, release: int) -> None:
    if find(files, release) is not None:
        _save(files, [one for one in load(files) if one.release != release])


def _save(files: StateFiles, wanted: list[Condemned]) -> None:
    latest = sorted(wanted, key=lambda one: one.time)[-_KEPT:]
    releases = {str(one.release): {"why": one.why, "time": one.time} for one in latest}
    files.write(NAME, jsonfile.encode({"format": FORMAT, "releases": releases}))
