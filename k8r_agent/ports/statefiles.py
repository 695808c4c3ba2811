"""Small durable files on the state partition."""

from __future__ import annotations

from typing import Protocol


class StateFiles(Protocol):
    """Names are relative paths. Files are 0600, directories 0700. Raises StateError with the errno's text."""

    def persistent(self) -> bool:
        """False while there is no state partition and the files live in RAM."""

    def trouble(self) -> tuple[str, str]:
        """Why nothing can be written now, and what to do; two empty strings when something can. Observes only."""

    def read(self, name: str) -> bytes | None: ...

    def write(self, name: str, data: bytes) -> None:
        """tmp → fsync → replace → fsync(directory): old or new content after a power cut, durable on return."""

    def append(self, name: str, data: bytes) -> None:
        """Durable on return; a power cut may leave a prefix of `data`."""

    def remove(self, name: str) -> None:
        """Durable; nothing when absent."""

    def names(self, directory: str) -> tuple[str, ...]:
        """Entries, sorted; () when there is no such directory. Never follows links."""
