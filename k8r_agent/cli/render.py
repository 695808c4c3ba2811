"""How things look: pure functions from values to lines of text. Nothing here asks the world anything."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from k8r_agent.model.units import format_duration, format_size


def table(rows: Iterable[Sequence[str]], *, head: Sequence[str] = (), gap: str = "  ") -> list[str]:
    """Columns as wide as they need to be; the last one is not padded."""
    lines = [tuple(head)] if head else []
    lines += [tuple(row) for row in rows]
    if not lines:
        return []
    widths = [max(len(row[i]) for row in lines if i < len(row)) for i in range(max(map(len, lines)))]
    return [gap.join(cell.ljust(widths[i]) for i, cell in enumerate(row)).rstrip() for row in lines]


def pairs(rows: Iterable[tuple[str, str]]) -> list[str]:
    return table([row for row in rows if row[1]])


def bar(done: int, total: int, width: int = 24) -> str:
    filled = width * done // total if total else 0
    return "[" + "#" * filled + "-" * (width - filled) + "]"


def progress(done: int, total: int, rate: float) -> str:
    """`43%  620 MiB of 1.5 GiB  18.2 MiB/s  0 min 48 s left`. `rate` in bytes a second; 0: not known yet."""
    if not total:
        return format_size(done) if done else ""
    done = min(done, total)
    text = f"{100 * done // total:3d}%  {format_size(done)} of {format_size(total)}"
    if rate > 0:
        text += f"  {format_size(rate)}/s"
        if done < total:
            text += f"  {format_duration((total - done) / rate)} left"
    return text


def ago(then: float, now: float) -> str:
    """`3 h 02 min ago`; "" for a time that was never set."""
    if then <= 0:
        return ""
    if then > now + 60:
        return f"on {clock(then)} (the clock was ahead)"
    return f"{format_duration(now - then)} ago" if now - then < 48 * 3600 else f"on {clock(then)}"


def clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def release(number: int, version: str) -> str:
    if not number:
        return version or "unknown release"
    return f"{version} (release {number})" if version else f"release {number}"


def count(number: int, noun: str, plural: str = "") -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {plural or noun + 's'}"
