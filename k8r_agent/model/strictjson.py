"""JSON that this agent, or somebody else, left in a file. What is read can be written, printed and counted with."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

_DIGITS = 20  # of a whole number; longer ones overflow what computes with them


def loads(raw: bytes) -> Any:
    """Raises ValueError, and nothing else, for what is no JSON and for what Python's parser takes beyond it: NaN,
    numbers without end, half characters (a lone surrogate cannot be printed), nesting that exhausts the stack."""
    try:
        text = raw.decode()
        value = json.loads(text, parse_constant=_refuse, parse_float=_float, parse_int=_int)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("too deeply nested") from None
    return value


def dumps(value: object, *, indent: int | None = None) -> bytes:
    """Keys sorted. Half characters (of a file name that is no UTF-8, say) become question marks."""
    return json.dumps(value, ensure_ascii=False, indent=indent, sort_keys=True).encode("utf-8", "replace")


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a number")


def _float(text: str) -> float:
    if math.isinf(value := float(text)):
        raise ValueError(f"{text[:_DIGITS]} is too large")
    return value


def _int(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError(f"{text[:_DIGITS]}… is too long")
    return int(text)
