"""GRUB: one environment block of 512 bytes holds the decision, the arming, the tries and the asset directories."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from k8r_agent.boot import assetfiles, bootable, grubfiles
from k8r_agent.boot.assetdirs import AssetDirectories
from k8r_agent.boot.grubfiles import ENV, IMAGE_TRIES, GrubDecision
from k8r_agent.boot.programs import LoaderPrograms
from k8r_agent.model.boot import BootAssets, BootState, LoaderFault
from k8r_agent.model.slots import Slot
from k8r_agent.ports.bootfiles import SECTOR, BootFiles


class Grub:
    """`current` is the slot that runs, as the initramfs found it. Every change is one sector."""

    name = "grub"

    def __init__(self, files: BootFiles, *, current: Slot | None, tries: int = 3) -> None:
        self._files, self._current = files, current
        self._tries = max(1, min(tries, grubfiles.MAX_TRIES))
        self._dirs = AssetDirectories(files)
        self._programs = LoaderPrograms(files=files, loader=self.name)

    def state(self) -> BootState:
        decision = self._decision()
        return BootState(backend=self.name, current=self._current, primary=decision.primary, armed=decision.once,
                         tries_left=decision.tries, image_offered=decision.image_offered)

    def set_primary(self, slot: Slot) -> None:
        bootable.assert_primary(self, slot)
        self._change(primary=slot, tries=self._tries, image_tries=IMAGE_TRIES)

    def try_once(self, slot: Slot) -> None:
        bootable.assert_once(self, slot)
        self._change(once=slot)

    def disarm(self) -> None:
        self._change(once=None)

    def refill_tries(self) -> None:
        self._change(tries=self._tries, image_tries=IMAGE_TRIES)

    def image_came_up(self) -> None:
        self._change(image_tries=IMAGE_TRIES)

    def install_assets(self, slot: Slot, assets: BootAssets) -> None:
        with self._files.writable():
            letter = self._dirs.write_beside(slot, self._decision().letter(slot), assets, spare=self._spare(slot))
            if slot is Slot.IMAGE:
                self._change(image_dir=letter, image_offered=True)
            else:
                self._change(working_dir=letter)

    def assert_room(self, assets: BootAssets, *slots: Slot) -> None:
        decision = self._decision()
        self._dirs.assert_room(assets, {slot: decision.letter(slot) for slot in slots}, spare=self._spare(slots[0]))

    def offer_image(self, offered: bool) -> None:
        self._change(image_offered=offered)

    def assets(self, slot: Slot) -> BootAssets | None:
        return self._dirs.read(slot, self._decision().letter(slot))

    def loader_faults(self) -> tuple[LoaderFault, ...]:
        return self._programs.faults()

    def mend_loader(self) -> tuple[str, ...]:
        return self._programs.mend()

    def problems(self) -> tuple[str, ...]:
        if grubfiles.parse_block(self._files.read(ENV)) is None:
            return (f"{ENV} cannot be read; GRUB boots the working slot and counts nothing",)
        return ()

    def _decision(self) -> GrubDecision:
        return grubfiles.parse_decision(self._files.read(ENV))

    def _spare(self, slot: Slot) -> str:
        """The other slot's directory that is not in use; "" where nobody knows which that is."""
        if self.problems():
            return ""
        return assetfiles.directory(slot.other, assetfiles.other(self._decision().letter(slot.other)))

    def _change(self, **fields: object) -> None:
        """Decided again where nobody else writes: a kernel's hook and the boot's own confirmation may meet."""
        if self._files.read(ENV) == self._changed(fields):
            return
        with self._files.writable():
            data, present = self._changed(fields), self._files.read(ENV)
            if present is not None and len(present) == SECTOR:
                self._files.write_sector(ENV, data)
            else:
                self._files.put(ENV, data)

    def _changed(self, fields: Mapping[str, Any]) -> bytes:
        return grubfiles.render_decision(replace(self._decision(), **fields))
