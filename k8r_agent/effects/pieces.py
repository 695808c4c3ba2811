"""Large files of the running system: kernels, initrds, loaders. Memory must not grow with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from k8r_agent.errors import BootError

_PIECE = 1 << 20


def pieces_of(path: Path) -> Iterator[bytes]:
    """Raises BootError."""
    try:
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                yield piece
    except OSError as error:
        raise BootError(f"{path} cannot be read", why=error.strerror or str(error)) from error
