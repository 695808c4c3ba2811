"""What talks to one kind of boot loader."""

from __future__ import annotations

from typing import Protocol

from k8r_agent.model.boot import BootAssets, BootState, LoaderFault
from k8r_agent.model.slots import Slot


class BootBackend(Protocol):
    """`primary` boots by default; at most one try-boot is armed. All effects are durable on return."""

    name: str

    def state(self) -> BootState: ...

    def set_primary(self, slot: Slot) -> None:
        """One sector. Raises Protected unless `slot` has complete boot assets."""

    def try_once(self, slot: Slot) -> None:
        """Boot `slot` at the next boot only, then fall back to the primary."""

    def disarm(self) -> None: ...

    def refill_tries(self) -> None:
        """Give the primary its full number of tries again; heals a counter file lost by a power cut."""

    def image_came_up(self) -> None:
        """The image slot runs, and not as the primary. Where it was booted because the working slot has no tries left,
        the loader goes on booting it; one that did not come up three times in a row gives working a turn, uncounted:
        it may be a release that was never booted before, and the tries were lost to power cuts."""

    def install_assets(self, slot: Slot, assets: BootAssets) -> None:
        """Write beside the present ones, read back, then switch by one sector. Raises Refused when the boot
        partition is too small, before anything is written."""

    def assert_room(self, assets: BootAssets, *slots: Slot) -> None:
        """Raises Refused where install_assets() into these slots, one after the other, would for want of room. Changes
        nothing."""

    def offer_image(self, offered: bool) -> None:
        """Whether the loader may boot the image slot at all. One sector. While that slot is rewritten it is not
        offered: a working slot that lost all its tries to power cuts is then still the one that boots. try_once() and
        set_primary() refuse it meanwhile; install_assets() offers it."""

    def problems(self) -> tuple[str, ...]:
        """What a person should know: an override of the decision, a lost or duplicate counter. () when all is well."""

    def loader_faults(self) -> tuple[LoaderFault, ...]:
        """Programs of the loader that are damaged or missing: the next boot may not happen."""

    def mend_loader(self) -> tuple[str, ...]:
        """Put those back that can be. Returns their paths."""

    def assets(self, slot: Slot) -> BootAssets | None:
        """What the slot would boot now, or would as soon as a lost counter is healed; None when incomplete."""
