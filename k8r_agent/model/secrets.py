"""What must not be seen in a message or a log, wherever it stands."""

from __future__ import annotations

import re

# A bootstrap token (its first half is no secret), and a certificate key; the hash of a CA is public.
_SECRET = r"\b([a-z0-9]{6})\.[a-z0-9]{16}\b|(?<!sha256:)\b[0-9a-f]{64}\b"

_PERHAPS = r"[a-z0-9]{6}\.[a-z0-9]{16}|(?<!sha256:)[0-9a-f]{64}"


def quoted(line: str) -> str:
    """A line that somebody wrote and that cannot be understood, for a message: its beginning in quotes. A typing error
    may stand right beside a secret, so a line that could hold one is not shown at all."""
    return "a line with a secret in it" if re.search(_PERHAPS, line) else repr(line[:60])


def scrub(text: str) -> str:
    """As redact(), but without anything that could be one of them, in the middle of something longer too: of what a
    person wrote in the wrong place."""
    return re.sub(_PERHAPS, "(secret)", text)


def redact(text: str) -> str:
    """The text without bootstrap tokens and certificate keys."""
    return re.sub(_SECRET, lambda match: f"{match[1]}.(secret)" if match[1] else "(secret)", text)
