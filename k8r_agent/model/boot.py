"""What the boot loader was told, as observed from its own files and variables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from k8r_agent.model.slots import Slot

KERNEL, INITRD = "vmlinuz", "initrd.img"


@dataclass(frozen=True, kw_only=True)
class BootState:
    """`current` is None when the running system was not booted from a slot (a rescue stick, a test)."""

    backend: str
    current: Slot | None
    primary: Slot
    armed: Slot | None
    tries_left: int | None  # of the primary working slot; None: not counted
    image_offered: bool = True  # whether the loader would boot the image slot

    @property
    def without_working(self) -> bool:
        """The image slot runs because no working slot is there to boot: nothing is lost by writing that one."""
        return self.current is Slot.IMAGE and (self.primary is Slot.IMAGE or self.tries_left == 0)


@dataclass(frozen=True, kw_only=True)
class BootFacts:
    """What the initramfs resolved and wrote to /run/k8r/boot. Kernel names (`vda`, `vda1`), valid for this boot."""

    slot: Slot
    disk: str
    bootpart: str
    rootpart: str
    statepart: str | None
    state: str  # "mounted", "absent" or "failed:<why>"
    duplicate: str | None  # device that carries the same PARTUUID or disk GUID
    loader: str
    watchdog: str | None


@dataclass(frozen=True, kw_only=True)
class LoaderFault:
    """A program of the boot loader that is not what was installed. `mendable`: the running system has a copy."""

    path: str
    why: str
    mendable: bool


@dataclass(frozen=True, kw_only=True)
class Content:
    """What identifies bytes, wherever they lie."""

    size: int
    sha256: str  # hex

    @staticmethod
    def of(pieces: Iterable[bytes]) -> Content:
        import hashlib

        size, digest = 0, hashlib.sha256()
        for piece in pieces:
            size += len(piece)
            digest.update(piece)
        return Content(size=size, sha256=digest.hexdigest())


@dataclass(frozen=True, kw_only=True)
class BootAssets:
    """One slot's kernel, initrd and own kernel arguments. An initrd may be larger than all the memory that an update
    is to need, so the two files are known by their hashes and read in pieces, from wherever they lie."""

    kernel: Content
    initrd: Content
    cmdline: str
    release: str
    # (KERNEL or INITRD, its pieces): each once, in the order in which they lie there, each read before the next is
    # asked for. Who copies them compares: they may have changed since they were hashed.
    files: Callable[[], Iterator[tuple[str, Iterator[bytes]]]] = field(compare=False, repr=False)
