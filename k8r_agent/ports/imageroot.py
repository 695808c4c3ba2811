"""What the image slot holds, for the system that runs beside it."""

from __future__ import annotations

from typing import Protocol


class ImageRoot(Protocol):
    """The slot is mounted read-only, without replaying its journal, and only while it is read."""

    def fetch(self, path: str) -> str:
        """Copy a program to where it can be run; the copy's absolute path. Raises Refused when there is none."""

    def import_images(self) -> None:
        """Give the container runtime those preloaded container images that it lacks; durable on return. Raises
        CommandFailed when one cannot be given."""


class NoImageRoot:
    """Of a node that has nothing to take from there."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"{name}() without an image slot")
