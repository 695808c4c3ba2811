"""The loader's own programs on the boot partition: are they what was put there, and putting them there again.

A firmware that was told nothing starts EFI/BOOT/BOOTX64.EFI and nothing else: no second copy under another name would
ever be tried, so a destroyed one means that the next boot does not happen. While the node runs it can be put right:
every system that is built from an image carries the programs. What is not known to be damaged is left alone, and so is
what carries a signature: with Secure Boot the owner signed it, and the packaged program would not boot.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from k8r_agent.effects.pieces import pieces_of
from k8r_agent.errors import BootError
from k8r_agent.model.boot import Content, LoaderFault
from k8r_agent.ports.bootfiles import BootFiles

EFI = "EFI/BOOT/BOOTX64.EFI"  # what a firmware boots without having been told anything
SD_BOOT = "EFI/systemd/systemd-bootx64.efi"  # where the guard looks for it
SUMS = "k8r/loader.sha256sums"  # what was put there, as sha256sum(1) writes it
PACKAGED = Path("/usr/lib/k8r/loader")
# Loader → path on the boot partition → name of the program in the image.
PROGRAMS = {"systemd-boot": {EFI: "guard", SD_BOOT: "systemd-boot"}, "grub": {EFI: "grub"}}


def render_sums(found: Mapping[str, Content]) -> bytes:
    return "".join(f"{content.sha256}  {path}\n" for path, content in sorted(found.items())).encode()


def signed(start: bytes) -> bool:
    """Whether a PE32+ program, of which this is the beginning, has a certificate table (Microsoft PE format)."""
    try:
        (header,) = struct.unpack_from("<I", start, 0x3C)
        magic, size = (struct.unpack_from("<H", start, header + 24)[0],
                       struct.unpack_from("<I", start, header + 24 + 112 + 4 * 8 + 4)[0])
    except struct.error:
        return False
    return start[:2] == b"MZ" and start[header:header + 4] == b"PE\0\0" and magic == 0x20B and size != 0


@dataclass(frozen=True, kw_only=True)
class LoaderPrograms:
    files: BootFiles
    loader: str
    packaged: Path = PACKAGED

    def faults(self) -> tuple[LoaderFault, ...]:
        recorded = self._recorded()
        found = (self._fault(path, recorded.get(path, "")) for path in PROGRAMS.get(self.loader, {}))
        return tuple(fault for fault in found if fault)

    def mend(self) -> tuple[str, ...]:
        """Puts back what can be put back: the old file or the whole new one at every instant. Returns the paths."""
        mended = tuple(fault.path for fault in self.faults() if fault.mendable)
        for path in mended:
            with self.files.writable():
                written = self.files.put_pieces(path, self._pieces(path))
                others = {name: Content(size=0, sha256=digest) for name, digest in self._recorded().items()}
                self.files.put(SUMS, render_sums({**others, path: written}))
        return mended

    def _fault(self, path: str, recorded: str) -> LoaderFault | None:
        found, ours = self.files.content(path), self._ours(path)
        if found and (found.sha256 == recorded or (ours and found.sha256 == ours.sha256)):
            return None
        if found and signed(next(self.files.pieces(path), b"")):
            return None if not recorded else LoaderFault(path=path, why="signed since it was installed",
                                                         mendable=False)
        if found and not recorded:
            return LoaderFault(path=path, why="not this release's, and nothing says what it should be", mendable=False)
        why = "damaged" if found else "missing"
        return LoaderFault(path=path, why=why if ours else f"{why}, and this system carries no copy of it",
                           mendable=ours is not None)

    def _recorded(self) -> dict[str, str]:
        lines = (self.files.read(SUMS) or b"").decode("ascii", "replace").splitlines()
        return {path: digest for digest, _, path in (line.partition("  ") for line in lines) if path}

    def _ours(self, path: str) -> Content | None:
        try:
            return Content.of(self._pieces(path))
        except BootError:
            return None

    def _pieces(self, path: str) -> Iterator[bytes]:
        return pieces_of(self.packaged / f"{PROGRAMS[self.loader][path]}.efi")
