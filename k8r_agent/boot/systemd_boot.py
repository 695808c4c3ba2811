"""systemd-boot: loader.conf decides, the name of the working entry counts, an EFI variable arms."""

from __future__ import annotations

import logging
from collections.abc import Callable

from k8r_agent.boot import assetfiles, bootable, sdfiles
from k8r_agent.boot.assetdirs import AssetDirectories
from k8r_agent.boot.programs import LoaderPrograms
from k8r_agent.boot.sdfiles import ENTRIES, LOADER_CONF, TURNS, EntryName
from k8r_agent.errors import BootError, Refused
from k8r_agent.model.boot import BootAssets, BootState, LoaderFault
from k8r_agent.model.slots import Slot
from k8r_agent.ports.bootfiles import BootFiles, EfiVars

log = logging.getLogger("k8r-agent")

_ENTRY = 128 << 10  # bytes: more than a file of one sector and a larger directory take
ONE_SHOT, OVERRIDE = "LoaderEntryOneShot", "LoaderEntryDefault"


class SystemdBoot:
    """`current` is the slot that runs, as the initramfs found it; `gpt` says whether the disk has such a table."""

    name = "systemd-boot"

    def __init__(self, files: BootFiles, efi: EfiVars, *, current: Slot | None, tries: int = 3,
                 gpt: Callable[[], bool] = lambda: True) -> None:
        self._files, self._efi, self._current, self._gpt = files, efi, current, gpt
        self._tries = max(1, min(tries, sdfiles.MAX_TRIES))
        self._dirs = AssetDirectories(files)
        self._programs = LoaderPrograms(files=files, loader=self.name)

    def state(self) -> BootState:
        override = sdfiles.parse_pattern(self._efi.read(OVERRIDE))
        image = self._entry(Slot.IMAGE)
        return BootState(backend=self.name, current=self._current, primary=override or self._decided(),
                         armed=sdfiles.parse_pattern(self._efi.read(ONE_SHOT)), tries_left=self._tries_left(),
                         image_offered=image is None or sdfiles.is_offered(self._read(image)))

    def set_primary(self, slot: Slot) -> None:
        bootable.assert_primary(self, slot)
        self._drop_override()
        if slot is Slot.WORKING:
            self._refill()
        self._decide(slot)

    def try_once(self, slot: Slot) -> None:
        bootable.assert_once(self, slot)
        if not self._efi.available():
            raise BootError(f"the {slot} slot cannot be booted once", why="the firmware's variables are out of reach",
                            hint="boot the node in UEFI mode with efivarfs mounted, or use the GRUB backend")
        self._drop_override()
        self._restore_entry()
        self._efi.write(ONE_SHOT, sdfiles.pattern(slot))

    def disarm(self) -> None:
        if self._efi.available() and self._efi.read(ONE_SHOT) is not None:
            self._efi.delete(ONE_SHOT)

    def refill_tries(self) -> None:
        self._drop_override()
        if self._decided() is Slot.WORKING or self._working_entries():
            self._refill()
        self._refill_turns()

    def image_came_up(self) -> None:
        self._refill_turns()
        self._restore_entry()

    def _refill_turns(self) -> None:
        data = sdfiles.render_turns()
        if self._files.read(TURNS) == data:
            return
        with self._files.writable():
            try:
                self._write(TURNS, data)
            except Refused as no_room:  # the guard goes without it, and so did older ones
                log.warning("%s", no_room)

    def install_assets(self, slot: Slot, assets: BootAssets) -> None:
        gpt = self._gpt()
        with self._files.writable():
            entry = self._entry(slot)
            active = self._letter(slot)
            sdfiles.render_entry(slot, "a", assets.cmdline, gpt=gpt)  # too long is found before a byte is written
            if entry:
                self._remove_others(entry)  # while all of them still say the same
            letter = self._dirs.write_beside(slot, active, assets, spare=self._spare(slot))
            if entry is None:
                entry = EntryName(slot=slot) if slot is Slot.IMAGE else sdfiles.full(self._tries, 0)
            self._write(f"{ENTRIES}/{entry}", sdfiles.render_entry(slot, letter, assets.cmdline, gpt=gpt))

    def assert_room(self, assets: BootAssets, *slots: Slot) -> None:
        self._dirs.assert_room(assets, {slot: self._letter(slot) for slot in slots}, spare=self._spare(slots[0]))

    def offer_image(self, offered: bool) -> None:
        if self._offers_otherwise(offered) is None:
            return
        with self._files.writable():
            data = self._offers_otherwise(offered)  # again where nobody else writes
            if data is not None:
                self._write(f"{ENTRIES}/{self._entry(Slot.IMAGE)}",
                            sdfiles.offered(data) if offered else sdfiles.withdrawn(data))

    def assets(self, slot: Slot) -> BootAssets | None:
        letter = self._letter(slot)
        if letter is None and slot is Slot.WORKING and self._decided() is slot:
            # _restore_entry() makes it again. Not so a first boot that was cut before there was one.
            lost = self._lost()
            return lost[1] if lost else None
        return self._dirs.read(slot, letter) if letter else None

    def loader_faults(self) -> tuple[LoaderFault, ...]:
        return self._programs.faults()

    def mend_loader(self) -> tuple[str, ...]:
        return self._programs.mend()

    def problems(self) -> tuple[str, ...]:
        """What a person should know; all of it is put right at the next refill_tries() or set_primary()."""
        found = []
        if (value := self._efi.read(OVERRIDE)) is not None:
            found.append(f"the EFI variable {OVERRIDE} ({value}) overrides the agent's decision")
        working = self._working_entries()
        if len(working) > 1:
            found.append(f"{len(working)} boot entries of the working slot: {', '.join(map(str, working))}")
        if self._entry_is_lost():
            found.append("the boot entry of the working slot is lost; the image slot boots")
        return tuple(found)

    # the decision

    def _decided(self) -> Slot:
        return sdfiles.parse_loader_conf(self._files.read(LOADER_CONF))

    def _decide(self, slot: Slot) -> None:
        data = sdfiles.render_loader_conf(slot)
        if self._files.read(LOADER_CONF) == data:
            return
        with self._files.writable():
            self._write(LOADER_CONF, data)

    def _drop_override(self) -> None:
        """Somebody ran `bootctl set-default`, or pressed `d` in the menu: it would win over loader.conf."""
        value = self._efi.read(OVERRIDE) if self._efi.available() else None
        if value is not None:
            self._efi.delete(OVERRIDE)
            log.warning("the EFI variable %s (%s) overrode the boot decision; it is removed", OVERRIDE, value)

    # entries

    def _entries(self) -> tuple[EntryName, ...]:
        found = (sdfiles.parse_name(name) for name in self._files.names(ENTRIES))
        return tuple(name for name in found if name)

    def _working_entries(self) -> tuple[EntryName, ...]:
        """Those that say what they boot before those that do not, then most tries left first; more than one only after
        a power cut while refilling."""
        found = [name for name in self._entries() if name.slot is Slot.WORKING]
        if len(found) < 2:
            return tuple(found)
        return tuple(sorted(found, key=lambda name: (not self._boots(name), -self._left(name))))

    def _boots(self, name: EntryName) -> bool:
        """Does it say what? One that cannot be read says as much as an empty one."""
        try:
            return sdfiles.parse_entry(self._read(name)) is not None
        except BootError:
            return False

    def _entry(self, slot: Slot) -> EntryName | None:
        if slot is Slot.WORKING:
            return next(iter(self._working_entries()), None)
        return next((name for name in self._entries() if name.slot is slot), None)

    def _letter(self, slot: Slot) -> str | None:
        """Of the active directory; None where no entry says so."""
        entry = self._entry(slot)
        return sdfiles.parse_entry(self._read(entry)) if entry else None

    def _spare(self, slot: Slot) -> str:
        """The other slot's directory that is not in use; "" where nobody knows which that is."""
        letter = self._letter(slot.other)
        return assetfiles.directory(slot.other, assetfiles.other(letter)) if letter else ""

    def _offers_otherwise(self, offered: bool) -> bytes | None:
        """The image slot's entry, where it is one and does not say `offered`."""
        entry = self._entry(Slot.IMAGE)
        data = self._read(entry) if entry else None
        wrong = data is not None and sdfiles.parse_entry(data) and sdfiles.is_offered(data) is not offered
        return data if wrong else None

    def _left(self, name: EntryName) -> int:
        return self._tries if name.left is None else name.left

    def _tries_left(self) -> int | None:
        working = self._working_entries()
        if any(name.left is None for name in working):
            return None
        return self._left(working[0]) if working and self._boots(working[0]) else 0

    def _read(self, entry: EntryName) -> bytes | None:
        return self._files.read(f"{ENTRIES}/{entry}")

    def _write(self, path: str, data: bytes) -> None:
        """In place where that is possible; a file of another size (somebody edited it) is replaced."""
        present = self._files.read(path)
        if present is not None and len(present) == len(data):
            self._files.write_sector(path, data)
        else:
            self._files.put(path, data)

    def _refill(self) -> None:
        """Looked at again where nobody else writes: a kernel's hook may just now give the entry another directory."""
        working = self._working_entries()
        if len(working) == 1 and working[0].left == self._tries and sdfiles.parse_entry(self._read(working[0])):
            return
        with self._files.writable():
            self._refilled()

    def _refilled(self) -> None:
        """Never a moment without an entry: the full one is written before the used one goes."""
        best = self._entry(Slot.WORKING)
        data = self._read(best) if best else None
        if best is None or data is None or sdfiles.parse_entry(data) is None:
            lost = self._lost()
            if lost is None:
                return  # no complete kernel to boot: install_assets() will write an entry
            letter, assets = lost
            best, data = None, sdfiles.render_entry(Slot.WORKING, letter, assets.cmdline, gpt=self._gpt())
            log.warning("the boot entry of the working slot was lost; it is written anew")
        if best:
            self._remove_others(best)  # a third entry could be in the way of the loader's renaming
        full = best
        if best is None or best.left != self._tries:
            generation = 1 - sdfiles.generation(best, self._tries) if best else 0
            full = sdfiles.full(self._tries, generation)
            self._dirs.make_room(_ENTRY, *map(self._spare, Slot))
            self._put(full, data, used=best)
        assert full is not None
        self._remove_others(full)

    def _put(self, full: EntryName, data: bytes, *, used: EntryName | None) -> None:
        """On a boot partition that its owner filled up a name can still be changed: the loader does so at each boot.
        Tries that nobody refills would end in the image slot, and take the node out of its cluster."""
        try:
            self._files.put(f"{ENTRIES}/{full}", data)
        except Refused as no_room:
            if used is None:
                raise
            log.warning("%s; the used-up boot entry is renamed", no_room)
            self._files.rename(f"{ENTRIES}/{used}", f"{ENTRIES}/{full}")

    def _remove_others(self, keep: EntryName) -> None:
        others = [name for name in self._entries() if name.slot is keep.slot and name != keep]
        if others:
            with self._files.writable():
                for name in others:
                    self._files.remove(f"{ENTRIES}/{name}")

    def _restore_entry(self) -> None:
        """Without one the loader goes to the image slot, as the primary though working is that, or was armed."""
        if self._entry_is_lost():
            with self._files.writable():
                self._refilled()

    def _entry_is_lost(self) -> bool:
        return self._decided() is Slot.WORKING and not any(map(self._boots, self._working_entries()))

    def _lost(self) -> tuple[str, BootAssets] | None:
        """The entry is gone or unreadable (a FAT that was repaired elsewhere), the assets are not. Of two complete
        directories nobody can tell which was active; either has a kernel that this slot has booted."""
        for letter in assetfiles.DIRECTORIES:
            if (assets := self._dirs.read(Slot.WORKING, letter)) is not None:
                return letter, assets
        return None
