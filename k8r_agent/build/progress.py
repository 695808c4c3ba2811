"""How a build says what it does. The real one prints (in __main__), tests collect."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    def step(self, text: str) -> None:
        """Something that may take a while begins."""

    def note(self, text: str) -> None:
        """Something worth knowing."""

    def bytes(self, done: int, total: int) -> None:
        """Within a step, at most a few times a second."""
