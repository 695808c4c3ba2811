"""What the boot loader was told, as observed from its own files and variables."""

from __future__ import annotations

from dataclasses import dataclass

from k8r_agent.model.slots import Slot


@dataclass(frozen=True, kw_only=True)
class BootState:
    """`current` is None when the running system was not booted from a slot (a rescue stick, a test)."""

    backend: str
    current: Slot | None
    primary: Slot
    armed: Slot | None
    tries_left: int | None  # of the primary working slot; None: not counted

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
class BootAssets:
    """One slot's kernel, initrd and own kernel arguments, as bytes to be written to the boot partition."""

    kernel: bytes
    initrd: bytes
    cmdline: str
    release: str
