"""The event log: one JSON object a line, each with its crc32. It survives a reinstall and every power cut.

An append that a power cut tore leaves a line without newline or with a wrong crc: it is skipped when read and
closed off before the next append. Two files bound the size; a line that a cut left in both counts once. Lines that
were written while the state partition was out of reach, and moved there later, have numbers (`n`) of their own: they
are shown where they stand, and numbers go on after the highest.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from typing import Any

from k8r_agent.errors import StateError
from k8r_agent.model import strictjson
from k8r_agent.model.txn import Event
from k8r_agent.ports.statefiles import StateFiles

NAME, OLD = "events.jsonl", "events.1.jsonl"
LIMIT = 512 * 1024  # bytes of one file; about 2500 events
_MESSAGE = 2000  # characters
_NUMBER = re.compile(rb'"n": (\d{1,12})[,}]')  # quotes inside of a message are escaped


class EventLog:
    def __init__(self, files: StateFiles, *, limit: int = LIMIT) -> None:
        self._files = files
        self._limit = limit

    def append(self, event: Event) -> None:
        """Durable on return. A full or failing state partition never stops a transaction for the log's sake."""
        try:
            raw = self._files.read(NAME) or b""
            if len(raw) > self._limit:
                raw = self._rotate(raw)
            line = _encode(event, self._next_number(raw))
            self._files.append(NAME, (b"" if raw.endswith(b"\n") or not raw else b"\n") + line)
        except StateError:
            return

    def read(self, *, txn: str = "", last: int = 0) -> tuple[Event, ...]:
        """Oldest first; only those of `txn`, only the `last` ones, when given."""
        events = tuple(e for _, e in self.numbered() if not txn or e.txn == txn)
        return events[-last:] if last else events

    def numbered(self, *, after: int = -1) -> Iterator[tuple[int, Event]]:
        """With their numbers, so that a follower asks for what came after the last one it saw."""
        old, new = ((self._files.read(name) or b"").split(b"\n") for name in (OLD, NAME))
        seen = set(old)
        for line in (*old, *(line for line in new if line not in seen)):
            found = _line(line)
            if found is not None and found[0] > after:
                yield found

    def _next_number(self, raw: bytes) -> int:
        found = _NUMBER.findall(raw) or _NUMBER.findall(self._files.read(OLD) or b"")
        return max(map(int, found), default=0) + 1

    def _rotate(self, raw: bytes) -> bytes:
        self._files.write(OLD, raw)
        self._files.write(NAME, b"")
        return b""


def as_dict(event: Event) -> dict[str, Any]:
    return {"time": event.time, "txn": event.txn, "task": event.task, "step": event.step, "kind": event.kind,
            "message": event.message, "duration": event.duration, "slot": event.slot, "boot_id": event.boot_id}


def _encode(event: Event, number: int) -> bytes:
    body = {**as_dict(event), "n": number, "message": event.message[:_MESSAGE]}
    return strictjson.dumps({**body, "crc": f"{zlib.crc32(strictjson.dumps(body)):08x}"}) + b"\n"


def _line(line: bytes) -> tuple[int, Event] | None:
    """None for an empty, torn or foreign line. Fields of a newer release are covered by the crc and ignored."""
    if not line:
        return None
    try:
        body = strictjson.loads(line)
        crc = body.pop("crc")
        if crc != f"{zlib.crc32(strictjson.dumps(body)):08x}":
            return None
        fields = {k: body[k] for k in Event.__dataclass_fields__ if k in body}
        return int(body["n"]), Event(**{**fields, "time": float(body["time"]),
                                        "duration": float(body.get("duration", 0))})
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
