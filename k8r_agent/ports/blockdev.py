"""Block devices and this node's own disk."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from k8r_agent.model.boot import BootFacts
from k8r_agent.model.layout import Disk, Partition


class BlockDevice(Protocol):
    """An open partition. Offsets and lengths in bytes; a short read or write is an error (DiskError)."""

    @property
    def size(self) -> int: ...

    def read(self, offset: int, length: int) -> bytes: ...

    def write(self, offset: int, data: bytes) -> None:
        """May stay in volatile memory until flush()."""

    def flush(self) -> None:
        """When this returns, everything written is on the medium. A write error met late is raised here."""

    def drop_cache(self) -> None:
        """Make later reads come from the medium, so that a read-back proves something."""


class Disks(Protocol):
    def facts(self) -> BootFacts:
        """Raises BootError when this system was not booted by the k8r initramfs."""

    def own(self) -> Disk:
        """The disk this node was booted from, read from the table on the medium."""

    def assert_writable(self) -> None:
        """Raises DiskAmbiguous when another disk carries the same PARTUUID or disk GUID."""

    def open(self, partition: Partition, *, write: bool = False) -> AbstractContextManager[BlockDevice]:
        """Exclusive (O_EXCL) when `write`: a mounted or held partition raises SlotBusy naming its holder.

        Writing raises Protected for any partition that is not of own(), and for the running root.
        """

    def write_table(self, disk: Disk, wanted: tuple[Partition, ...], *, new_id: str) -> Disk:
        """Write the whole table once (backup table at the end of the disk), verify it from the medium, and
        tell the kernel, while partitions are in use. Idempotent. Partitions keep their start."""

    def former_state(self, disk: Disk, *, known: tuple[int, int] | None) -> Partition | None:
        """The state partition of an earlier life of `disk`, where the present table has none: start, size, and as name
        the label of the ext4 that is there. `known`: start and size in bytes, where it was seen before. Observes."""

    def signature(self, partition: Partition) -> str:
        """What libblkid finds on it (`ext4 k8r-state`, `crypto_LUKS`), "" when nothing."""

    def filesystem_uuid(self, partition: Partition) -> str:
        """"" when it has none."""

    def make_filesystem(self, partition: Partition, *, label: str, uuid: str) -> None:
        """mkfs.ext4, refused (Protected) when signature() is not empty."""

    def grow_root(self) -> None:
        """Grow the mounted root file system to its partition, online (journalled, unlike resize2fs offline)."""
