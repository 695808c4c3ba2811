"""The two systems of a node's disk and what is known of each."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Slot(str, enum.Enum):
    """`working` runs the node; `image` holds a golden image, pristine, booted only under a RAM overlay."""

    IMAGE = "image"
    WORKING = "working"

    @property
    def other(self) -> Slot:
        return Slot.WORKING if self is Slot.IMAGE else Slot.IMAGE

    def __str__(self) -> str:
        return self.value


class SlotState(str, enum.Enum):
    OK = "ok"
    PENDING = "pending"  # being written: its content means nothing
    UNKNOWN = "unknown"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, kw_only=True)
class SlotStatus:
    """What was last written into a slot. `digest` is the sha256 of the whole unpacked image, hex. Until the slot is
    written again: `accepted` are the names of failing health checks that an operator put up with, `by_hand` is the
    role (`control-plane`, `worker`) of a system whose place in its cluster only this slot keeps, "" for others."""

    state: SlotState = SlotState.UNKNOWN
    release: int = 0
    version: str = ""
    digest: str = ""
    txn: str = ""
    time: float = 0.0  # seconds since the epoch
    accepted: tuple[str, ...] = ()
    by_hand: str = ""
