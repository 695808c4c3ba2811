"""Sizes and durations as people write them, and back."""

from __future__ import annotations

import re

_SIZES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
          "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_TIMES = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_NUMBER = r"(\d{1,15}(?:\.\d{1,15})?)\s*([A-Za-z]+)"  # of more digits there is an infinity


def parse_size(text: str) -> int:
    """`"4GiB"` → bytes. Raises ValueError that names the units."""
    match = re.fullmatch(_NUMBER, text.strip())
    if not match or match[2] not in _SIZES:
        raise ValueError(f"{text!r} is not a size; write for example 512MiB or 4GiB (units: {', '.join(_SIZES)})")
    return int(float(match[1]) * _SIZES[match[2]])


def parse_duration(text: str) -> float:
    """`"20min"` → seconds. Raises ValueError that names the units."""
    match = re.fullmatch(_NUMBER, text.strip())
    if not match or match[2] not in _TIMES:
        raise ValueError(f"{text!r} is not a duration; write for example 90s, 20min or 1h")
    return float(match[1]) * _TIMES[match[2]]


def format_size(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def format_duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
