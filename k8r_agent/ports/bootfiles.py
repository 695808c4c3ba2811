"""The boot partition and the firmware's variables: the two places a boot loader reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from k8r_agent.model.boot import Content

SECTOR = 512


class BootFiles(Protocol):
    """The FAT boot partition. Paths are relative, `/`-separated. Every effect is durable and read back (with
    the cache dropped) when the call returns; what a power cut in between leaves is said at each."""

    def writable(self) -> AbstractContextManager[None]:
        """Read-write for the duration; nests. Every writing call needs it."""

    def read(self, path: str) -> bytes | None:
        """A small file. None when there is no such file."""

    def pieces(self, path: str) -> Iterator[bytes]:
        """A file of any size, read as the pieces are asked for. Raises BootError when there is none."""

    def content(self, path: str) -> Content | None:
        """What identifies a file of any size. None when there is no such file."""

    def names(self, directory: str) -> tuple[str, ...]:
        """Entries of a directory ("": of the partition), () when it does not exist."""

    def write_sector(self, path: str, data: bytes) -> None:
        """Overwrite an existing file of exactly 512 bytes in place: old or new, nothing else (one sector)."""

    def put(self, path: str, data: bytes) -> None:
        """Create or replace a small file: absent/old or new, never a mix under its final name."""

    def put_pieces(self, path: str, pieces: Iterable[bytes]) -> Content:
        """As put(), for a file of any size, and returns what was written. What `pieces` raises passes through, and
        leaves what was there."""

    def rename(self, old: str, new: str) -> None:
        """Within one directory. A cut may leave both names or neither: callers must be able to heal that."""

    def remove(self, path: str) -> None:
        """A file, or the files of a directory, which itself stays; nothing when absent."""

    def sizes(self, directory: str) -> tuple[int, ...]:
        """Bytes of each of its files, () when it does not exist. What they take on the medium is no less."""

    def free(self) -> int:
        """Bytes free."""


class EfiVars(Protocol):
    """UEFI variables of the boot loader interface (vendor 4a67b082-0a4c-41cf-b6c7-440b29bb8c4f)."""

    def available(self) -> bool: ...

    def read(self, name: str) -> str | None: ...

    def write(self, name: str, value: str) -> None:
        """Read back after the write: firmware may drop it (BootError)."""

    def delete(self, name: str) -> None: ...
