"""What must not be seen in a message or a log, wherever it stands."""

from __future__ import annotations

import re

# A bootstrap token (its first half is no secret), and a certificate key; the hash of a CA is public.
_SECRET = re.compile(r"\b([a-z0-9]{6})\.[a-z0-9]{16}\b|(?<!sha256:)\b[0-9a-f]{64}\b")


def redact(text: str) -> str:
    """The text without bootstrap tokens and certificate keys."""
    return _SECRET.sub(lambda match: f"{match[1]}.(secret)" if match[1] else "(secret)", text)
