"""Putting a slot's boot assets beside the present ones, on the boot partition."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

from k8r_agent.boot import assetfiles
from k8r_agent.boot.loaderfiles import small_files
from k8r_agent.errors import BootError, Refused
from k8r_agent.model.boot import INITRD, KERNEL, BootAssets
from k8r_agent.model.slots import Slot
from k8r_agent.model.units import format_size
from k8r_agent.ports.bootfiles import BootFiles

_MARGIN = 64 << 10  # bytes: directories and the FAT's own rounding
_CLUSTER = 32 << 10  # bytes, the largest cluster of a FAT32
# fsck.vfat gives clusters without an owner a name of this kind, at the top: what a cut left of a file half written.
_SALVAGED = re.compile(r"FSCK\d{4}\.REC", re.IGNORECASE)


class AssetDirectories:
    """`letter` is always the active directory, as the decision says: it is never written, so that a slot can be
    given a new kernel while it runs and while it is the primary."""

    def __init__(self, files: BootFiles) -> None:
        self._files = files

    def read(self, slot: Slot, letter: str) -> BootAssets | None:
        """None when incomplete or not what its hashes say."""
        where = assetfiles.directory(slot, letter)
        small = {name: self._files.read(f"{where}/{name}")
                 for name in (assetfiles.CMDLINE, assetfiles.RELEASE, assetfiles.SUMS)}
        kernel, initrd = (self._files.content(f"{where}/{name}") for name in (KERNEL, INITRD))
        return assetfiles.parse(small, kernel, initrd, files=lambda: (
            (name, self._files.pieces(f"{where}/{name}")) for name in (KERNEL, INITRD)))

    def write_beside(self, slot: Slot, active: str | None, assets: BootAssets, *, spare: str = "") -> str:
        """Returns the letter of the new directory, complete and durable. `spare`: the other slot's directory that is
        not in use; it makes room when there is none. Raises Refused when that does not help: then nothing was written,
        and only directories that are not in use are gone."""
        letter = _beside(active)
        where, small = assetfiles.directory(slot, letter), small_files(slot, letter, assets)
        needed = _needed(assets, small)
        with self._files.writable():
            self._files.remove(where)
            self.make_room(needed, spare)
            _assert_fits(slot, needed, self._files.free())
            self._copy(where, assets)
            for path, data in small.items():
                self._files.put(path, data)
        return letter

    def assert_room(self, assets: BootAssets, active: Mapping[Slot, str | None], *, spare: str = "") -> None:
        """Raises Refused where write_beside() into these slots, one after the other, would; a slot whose active
        directory has them already needs none. Changes nothing. `spare` as for the first of them."""
        try:
            self._assert_fit(assets, active, spare)
        except Refused:  # kernels and initrds are read only now: on a card that takes seconds
            present = {slot for slot, letter in active.items() if letter and self.read(slot, letter) == assets}
            if not present:
                raise
            self._assert_fit(assets, active, spare, present)

    def _assert_fit(self, assets: BootAssets, active: Mapping[Slot, str | None], spare: str,
                    present: Collection[Slot] = ()) -> None:
        unused = {*self._unused(spare), *(assetfiles.directory(slot, _beside(active[slot])) for slot in active)}
        room = self._files.free() + sum(map(self._size, unused))
        for slot, letter in active.items():
            if slot in present:
                continue
            needed = _needed(assets, small_files(slot, _beside(letter), assets))
            _assert_fits(slot, needed, room)
            room -= needed
            if letter:  # from then on in use by nobody
                room += self._size(assetfiles.directory(slot, letter))

    def make_room(self, needed: int, *spare: str) -> None:
        """Removes what is in use by nobody until `needed` bytes are free, or nothing of it is left."""
        for where in self._unused(*spare):
            if self._files.free() >= needed:
                break
            self._files.remove(where)

    def _size(self, where: str) -> int:
        return sum(self._files.sizes(where))

    def _unused(self, *spare: str) -> Iterator[str]:
        yield from (name for name in self._files.names("") if _SALVAGED.fullmatch(name))
        yield from filter(None, spare)

    def _copy(self, where: str, assets: BootAssets) -> None:
        wanted = {KERNEL: assets.kernel, INITRD: assets.initrd}
        for name, pieces in assets.files():
            if self._files.put_pieces(f"{where}/{name}", pieces) != wanted.pop(name):
                raise BootError(f"{name} changed while it was copied to the boot partition", hint="try again")
        assert not wanted


def _beside(active: str | None) -> str:
    return assetfiles.other(active) if active else "a"


def _rounded(size: int) -> int:
    return -(-size // _CLUSTER) * _CLUSTER


def _needed(assets: BootAssets, small: Mapping[str, bytes]) -> int:
    sizes = (assets.kernel.size, assets.initrd.size, *(len(data) for data in small.values()))
    return sum(_rounded(size) for size in sizes) + _MARGIN


def _assert_fits(slot: Slot, needed: int, free: int) -> None:
    if free < needed:
        raise Refused(f"the {slot} slot's boot assets do not fit the boot partition",
                      why=f"{format_size(needed)} are needed, {format_size(free)} are free",
                      hint="remove what does not belong to k8r from /boot/firmware")
