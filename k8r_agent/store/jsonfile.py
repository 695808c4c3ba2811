"""JSON records that two agent versions share: format number first, unknown fields kept, damage set aside.

A transaction is started by the old system and continued by the new image, so release N reads what N-1 and N+1
wrote. A record that cannot be read is copied to quarantine/ and removed: it is evidence, not something to trip
over at every start.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

from k8r_agent.errors import StateError
from k8r_agent.model import strictjson
from k8r_agent.ports.statefiles import StateFiles

QUARANTINE = "quarantine"
_QUARANTINE_FILES = 8  # evidence of one fault is enough; the partition is small


class Damaged(StateError):
    """The record makes no sense, as opposed to one that cannot be reached or that a newer release wrote."""


def encode(record: Mapping[str, Any]) -> bytes:
    return strictjson.dumps(record, indent=1) + b"\n"


def load(files: StateFiles, name: str, *, format_now: int, quarantine: bool = True) -> dict[str, Any] | None:
    """None when absent. Raises Damaged (set aside if `quarantine`), or StateError for a format out of reach."""
    raw = files.read(name)
    if raw is None:
        return None
    try:
        record = strictjson.loads(raw)
        number = record["format"]
        if not isinstance(number, int) or isinstance(number, bool):
            raise ValueError(f"format is {number!r}")
    except (ValueError, TypeError, KeyError) as error:
        raise damaged(files, name, raw, error, quarantine=quarantine) from None
    if number > format_now + 1 or number < max(1, format_now - 1):
        raise StateError(f"{name} has format {number}", why=f"this release reads {max(1, format_now - 1)} to "
                         f"{format_now + 1}", hint="continue with the release that wrote it")
    return dict(record)


def damaged(files: StateFiles, name: str, raw: bytes, error: Exception, *, quarantine: bool = True) -> Damaged:
    """The error to raise for a record that makes no sense; sets it aside first."""
    hint = ""
    if quarantine:
        kept = set_aside(files, name, raw)
        hint = f"a copy is in {kept}; the record starts afresh"
    return Damaged(f"{name} is damaged", why=f"{type(error).__name__}: {error}"[:200], hint=hint)


def set_aside(files: StateFiles, name: str, raw: bytes) -> str:
    """Copy to quarantine/, then remove."""
    kept = copy_aside(files, name, raw)
    files.remove(name)
    return kept


def copy_aside(files: StateFiles, name: str, raw: bytes) -> str:
    """Under a name made of its content, so that a repetition costs nothing."""
    kept = f"{QUARANTINE}/{name.replace('/', '_')}.{zlib.crc32(raw):08x}"
    if len(files.names(QUARANTINE)) < _QUARANTINE_FILES:
        files.write(kept, raw)
    return kept
