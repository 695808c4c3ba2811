"""Putting a slot's boot assets beside the present ones, on the boot partition."""

from __future__ import annotations

from k8r_agent.boot import assetfiles
from k8r_agent.boot.loaderfiles import small_files
from k8r_agent.errors import BootError, Refused
from k8r_agent.model.boot import INITRD, KERNEL, BootAssets
from k8r_agent.model.slots import Slot
from k8r_agent.model.units import format_size
from k8r_agent.ports.bootfiles import BootFiles

_MARGIN = 64 << 10  # bytes: directories and the FAT's own rounding
_CLUSTER = 32 << 10  # bytes, the largest cluster of a FAT32


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

    def write_beside(self, slot: Slot, active: str | None, assets: BootAssets) -> str:
        """Returns the letter of the new directory, complete and durable. Raises Refused when there is no room: then
        nothing was written, and only a directory that is not in use is gone."""
        letter = assetfiles.other(active) if active else "a"
        where = assetfiles.directory(slot, letter)
        small = small_files(slot, letter, assets)
        sizes = [assets.kernel.size, assets.initrd.size, *(len(data) for data in small.values())]
        needed = sum(-(-size // _CLUSTER) * _CLUSTER for size in sizes) + _MARGIN
        with self._files.writable():
            self._files.remove(where)
            if self._files.free() < needed:
                raise Refused(f"the {slot} slot's boot assets do not fit the boot partition",
                              why=f"{format_size(needed)} are needed, {format_size(self._files.free())} are free",
                              hint="remove what does not belong to k8r from /boot/firmware")
            self._copy(where, assets)
            for path, data in small.items():
                self._files.put(path, data)
        return letter

    def _copy(self, where: str, assets: BootAssets) -> None:
        wanted = {KERNEL: assets.kernel, INITRD: assets.initrd}
        for name, pieces in assets.files():
            if self._files.put_pieces(f"{where}/{name}", pieces) != wanted.pop(name):
                raise BootError(f"{name} changed while it was copied to the boot partition", hint="try again")
        assert not wanted
