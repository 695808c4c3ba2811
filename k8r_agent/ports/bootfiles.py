"""The boot partition and the firmware's variables: the two places a boot loader reads."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

SECTOR = 512


class BootFiles(Protocol):
    """The FAT boot partition. Paths are relative, `/`-separated. Every effect is durable and read back (with
    the cache dropped) when the call returns; what a power cut in between leaves is said at each."""

    def writable(self) -> AbstractContextManager[None]:
        """Read-write for the duration; nests. Every writing call needs it."""

    def read(self, path: str) -> bytes | None:
        """None when there is no such file."""

    def names(self, directory: str) -> tuple[str, ...]:
        """Entries of a directory, () when it does not exist."""

    def write_sector(self, path: str, data: bytes) -> None:
        """Overwrite an existing file of exactly 512 bytes in place: old or new, nothing else (one sector)."""

    def put(self, path: str, data: bytes) -> None:
        """Create or replace a file of any size: absent/old or new, never a mix under its final name."""

    def rename(self, old: str, new: str) -> None:
        """Within one directory. A cut may leave both names or neither: callers must be able to heal that."""

    def remove(self, path: str) -> None:
        """A file or a directory with its files; nothing when absent."""

    def free(self) -> int:
        """Bytes free."""


class EfiVars(Protocol):
    """UEFI variables of the boot loader interface (vendor 4a67b082-0a4c-41cf-b6c7-440b29bb8c4f)."""

    def available(self) -> bool: ...

    def read(self, name: str) -> str | None: ...

    def write(self, name: str, value: str) -> None:
        """Read back after the write: firmware may drop it (BootError)."""

    def delete(self, name: str) -> None: ...
