"""The web server of tests/http inside the lab's network: it can be slow, and it can misbehave."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from tests.http.server import serve
from tests.lab.network import Network


class Web:
    """Serves everything below `root`. Behaviours and the rate are set on `site`."""

    def __init__(self, network: Network, root: Path) -> None:
        self._open = ExitStack()
        self._root = root.resolve()
        self.site, self.prefix = self._open.enter_context(serve(self._root, listening=network.listen()))

    def url(self, path: Path) -> str:
        return f"{self.prefix}{path.resolve().relative_to(self._root)}"

    def stop(self) -> None:
        self._open.close()
