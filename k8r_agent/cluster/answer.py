"""What kubectl's exit code and its complaint mean. Its codes say only yes and no, so the words are read.

The words are those of kubectl's `pkg/cmd/util.StandardErrorMessage`, the same since 1.12; tests hold them against a
real kubectl.
"""

from __future__ import annotations

import enum
import json
import re
from dataclasses import dataclass
from typing import Any

from k8r_agent.ports.commands import Result

_REASON = re.compile(r"Error from server(?: \((\w+)\))?: (.*)", re.DOTALL)
_NOBODY = re.compile(
    r"connection to the server .*was refused|Unable to connect to the server|i/o timeout|no such host|"
    r"connection refused|TLS handshake timeout|deadline exceeded|Client\.Timeout|unexpected EOF|error: EOF|"
    r"connection reset by peer|no route to host|network is unreachable|http2: client connection lost", re.IGNORECASE)
_DISTRUST = re.compile(r"x509: [^\n]*")
_STRANGER = re.compile(r"Unauthorized|must be logged in|Please enter Username|no configuration has been provided|"
                       r"invalid configuration|: no such file or directory")


class Kind(enum.Enum):
    OK = "ok"
    NOT_FOUND = "not found"
    CONFLICT = "changed meanwhile"
    BLOCKED = "too many requests"  # an eviction that a disruption budget forbids now
    FORBIDDEN = "forbidden"
    STRANGER = "credential not accepted"
    DISTRUST = "certificate not accepted"
    UNREACHABLE = "no answer"
    SERVER = "the API server failed"  # it answered, but cannot do it
    OTHER = "unknown"


_REASONS = {"NotFound": Kind.NOT_FOUND, "Conflict": Kind.CONFLICT, "AlreadyExists": Kind.CONFLICT,
            "TooManyRequests": Kind.BLOCKED, "Forbidden": Kind.FORBIDDEN, "Unauthorized": Kind.STRANGER,
            "ServiceUnavailable": Kind.UNREACHABLE, "Timeout": Kind.UNREACHABLE, "ServerTimeout": Kind.UNREACHABLE}


@dataclass(frozen=True, kw_only=True)
class Answer:
    """`text` is what a person should read: kubectl's words without its prefix, one line."""

    kind: Kind
    text: str = ""
    body: Any = None  # the object that came back, {} when it was none

    @property
    def ok(self) -> bool:
        return self.kind is Kind.OK


def read(result: Result) -> Answer:
    """Never fails: what is not understood is OTHER with its text."""
    if result.code == 0:
        try:
            return Answer(kind=Kind.OK, body=json.loads(result.stdout))
        except ValueError:
            return Answer(kind=Kind.OK, body={})
    said = result.stderr.strip() or result.stdout.strip()
    found = _REASON.search(said)
    text = " ".join((found[2] if found else said).split())[:400]
    return Answer(kind=_kind(said, found[1] if found else None, answered=found is not None), text=text)


def _kind(said: str, reason: str | None, *, answered: bool) -> Kind:
    if answered:
        return _REASONS.get(reason or "", Kind.SERVER)
    for words, kind in ((_DISTRUST, Kind.DISTRUST), (_NOBODY, Kind.UNREACHABLE), (_STRANGER, Kind.STRANGER)):
        if words.search(said):
            return kind
    return Kind.OTHER
