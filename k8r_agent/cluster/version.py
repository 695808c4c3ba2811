"""Versions of Kubernetes: `v1.31.4`, `1.20.2-00`, `v1.33.0-rc.1`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import total_ordering

from k8r_agent.errors import ClusterError

# Behind the numbers: a pre-release (-rc.1), build data (+k3s1; _k3s1 in the tag of a container image), or the revision
# of a package (-00, -1.1).
_VERSION = re.compile(r"v?(\d+)\.(\d+)\.(\d+)(?:-((?:alpha|beta|rc)[0-9A-Za-z.-]*)|[-+_].*)?")


@total_ordering
@dataclass(frozen=True, kw_only=True)
class Version:
    """Ordered as semver orders: a pre-release comes before its release."""

    major: int
    minor: int
    patch: int = 0
    pre: str = ""

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}{'-' if self.pre else ''}{self.pre}"

    @property
    def tag(self) -> str:
        """As Kubernetes writes it."""
        return f"v{self}"

    @property
    def series(self) -> str:
        return f"{self.major}.{self.minor}"

    def __lt__(self, other: Version) -> bool:
        return self._order() < other._order()

    def _order(self) -> tuple[int, int, int, bool, list[tuple[bool, int, str]]]:
        pieces = re.findall(r"\d+|[A-Za-z]+", self.pre)
        words = [(not p.isdecimal(), int(p) if p.isdecimal() else 0, p) for p in pieces]
        return self.major, self.minor, self.patch, not self.pre, words


def parse(text: str) -> Version:
    """Raises ClusterError for what is no version of Kubernetes."""
    match = _VERSION.fullmatch(text.strip())
    if not match:
        raise ClusterError(f"{text[:60]!r} is not a version of Kubernetes", why="it is written 1.31.4 or v1.31.4")
    return Version(major=int(match[1]), minor=int(match[2]), patch=int(match[3]), pre=match[4] or "")
