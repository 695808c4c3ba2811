"""The API server by path, through `kubectl --raw`: no discovery, one request each, and any verb of a REST API."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from k8r_agent.cluster import answer, drain
from k8r_agent.cluster.answer import Answer, Kind
from k8r_agent.errors import ClusterError
from k8r_agent.ports.cluster import As, Cluster

_SECONDS = 20  # for one request
HINTS = {
    Kind.UNREACHABLE: "is the control plane up, and can this node reach it?",
    Kind.STRANGER: "the node's credential expired, or belongs to another cluster: see `k8r-agent reinstall --dry-run`",
    Kind.DISTRUST: "is the clock right? Is it the right cluster?",
}


class Api:
    def __init__(self, cluster: Cluster, who: As = As.NODE) -> None:
        self._cluster, self._who = cluster, who

    def get(self, path: str) -> Answer:
        return self._ask(["get", "--raw", path])

    def create(self, path: str, body: Mapping[str, Any]) -> Answer:
        return self._ask(["create", "--raw", path, "-f", "-"], body)

    def replace(self, path: str, body: Mapping[str, Any]) -> Answer:
        return self._ask(["replace", "--raw", path, "-f", "-"], body)

    def delete(self, path: str) -> Answer:
        return self._ask(["delete", "--raw", path])

    def _ask(self, args: list[str], body: Mapping[str, Any] | None = None) -> Answer:
        stdin = json.dumps(body).encode() if body is not None else b""
        return answer.read(self._cluster.kubectl([*args, f"--request-timeout={_SECONDS}s"], who=self._who,
                                                 stdin=stdin, timeout=3.0 * _SECONDS))

    def minor(self) -> int:
        """Of the API server's version, 0 when it does not say."""
        found = self.get("/version")
        digits = "".join(c for c in str((found.body or {}).get("minor", "")) if c.isdecimal())
        return int(digits) if found.ok and digits else 0

    def pods(self, node: str) -> tuple[drain.Pod, ...]:
        """Raises ClusterError."""
        return tuple(pod for page in self._pages(node) for pod in drain.pods(page))

    def _pages(self, node: str) -> Iterator[Mapping[str, Any]]:
        token = ""
        while True:
            page = expect(self.get(drain.pods_path(node, token)), "the node's pods cannot be listed")
            yield page
            token = drain.more(page)
            if not token:
                return


def expect(found: Answer, what: str) -> Mapping[str, Any]:
    """The object that came. Raises ClusterError."""
    if not found.ok or not isinstance(found.body, dict):
        raise ClusterError(what, why=found.text or found.kind.value, hint=HINTS.get(found.kind, ""))
    return found.body
