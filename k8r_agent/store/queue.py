"""Requests: what somebody asked for, as data. Their ids sort by time; what is not a sane request is moved aside."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from k8r_agent.errors import StateError, UsageError
from k8r_agent.model import strictjson
from k8r_agent.model.txn import Request
from k8r_agent.ports.statefiles import StateFiles
from k8r_agent.store import jsonfile

FORMAT = 1
DIRECTORY = "queue"
LIMIT = 16 * 1024  # bytes of one request
_ID = r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{4}"
_NAME = r"[a-z][a-z0-9-]{0,63}"

Complain = Callable[[str, str], None]  # (file name, why) → an event


def new_id(now: float) -> str:
    """`20261120T110000.123456Z-9f3a`: sorts by time, unique without a counter, fit for a file name."""
    micro = round(now * 1_000_000)
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(micro // 1_000_000))
    return f"{stamp}.{micro % 1_000_000:06d}Z-{os.urandom(2).hex()}"


class Queue:
    """`queue/<id>.json`. That each is a regular file of root's that nobody else may write is checked where it is
    opened (StateFiles)."""

    def __init__(self, files: StateFiles) -> None:
        self._files = files

    def put(self, request: Request) -> None:
        """Durable on return. Raises UsageError for what next() would refuse."""
        raw = jsonfile.encode(record_of(request))
        try:
            if parse(raw, request.id).args != dict(request.args):
                raise ValueError("an argument is not valid UTF-8")
        except ValueError as error:
            raise UsageError("this request cannot be queued", why=str(error)) from None
        self._files.write(f"{DIRECTORY}/{request.id}.json", raw)

    def requests(self, complain: Complain = lambda name, why: None) -> tuple[Request, ...]:
        """Oldest first. What cannot be accepted is moved to quarantine/ and reported to `complain`."""
        found = []
        for name in self._files.names(DIRECTORY):
            if name.startswith("."):
                continue  # a write in progress
            raw = b""
            try:
                raw = self._files.read(f"{DIRECTORY}/{name}") or b""
                found.append(parse(raw, name.removesuffix(".json") if name.endswith(".json") else name))
            except (ValueError, StateError) as error:
                self._reject(name, raw)
                complain(name, str(error))
        return tuple(found)

    def pending(self) -> tuple[Request, ...]:
        """The same for readers: nothing is moved."""
        found = []
        for name in self._files.names(DIRECTORY):
            try:
                found.append(parse(self._files.read(f"{DIRECTORY}/{name}") or b"", name.removesuffix(".json")))
            except (ValueError, StateError):
                continue
        return tuple(found)

    def remove(self, request: str) -> None:
        self._files.remove(f"{DIRECTORY}/{request}.json")

    def _reject(self, name: str, raw: bytes) -> None:
        try:
            if raw and len(raw) <= LIMIT:
                jsonfile.set_aside(self._files, f"{DIRECTORY}/{name}", raw)
            else:
                self._files.remove(f"{DIRECTORY}/{name}")
        except StateError:  # a directory with something in it: never ours to delete
            return


def record_of(request: Request) -> dict[str, Any]:
    return {"format": FORMAT, "id": request.id, "task": request.task, "args": dict(request.args),
            "requested_by": request.requested_by, "time": request.time}


def parse(raw: bytes, name: str) -> Request:
    """Raises ValueError saying what is wrong. Fields of a newer release are ignored: the arguments are what counts,
    and those are checked against the task."""
    if len(raw) > LIMIT:
        raise ValueError(f"larger than {LIMIT} bytes")
    try:
        record = strictjson.loads(raw)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(record, dict) or record.get("format") not in (FORMAT, FORMAT + 1):
        raise ValueError(f"not a request of format {FORMAT}")
    args = record.get("args", {})
    if record.get("id") != name or not re.fullmatch(_ID, name):
        raise ValueError(f"id {record.get('id')!r} is not {name!r}, or not of the form <time>-<4 hex digits>")
    if not isinstance(record.get("task"), str) or not re.fullmatch(_NAME, record["task"]):
        raise ValueError(f"{record.get('task')!r} is not a task name")
    if not _are_texts(args):
        raise ValueError("args must map names to strings")
    return Request(id=name, task=record["task"], args=dict(args), requested_by=str(record.get("requested_by", "")),
                   time=_number(record.get("time", 0)))


def _are_texts(args: object) -> bool:
    return isinstance(args, Mapping) and all(isinstance(k, str) and isinstance(v, str) for k, v in args.items())


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"time {value!r} is not a number")
    return float(value)
