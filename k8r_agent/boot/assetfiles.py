"""A slot's boot assets as files: /<slot>/<a|b>/ on the boot partition. Pure.

Every directory carries the hashes of its files: a kernel that rots or is cut short on the FAT is found before the
node reboots into it, not by the loader.
"""

from __future__ import annotations

from collections.abc import Mapping

from k8r_agent.model.boot import BootAssets
from k8r_agent.model.slots import Slot

KERNEL, INITRD, CMDLINE, RELEASE = "vmlinuz", "initrd.img", "cmdline", "release"
NAMES = (KERNEL, INITRD, CMDLINE, RELEASE)
SUMS = "sha256sums"  # as sha256sum(1) writes it, so that a person can check with `sha256sum -c`
DIRECTORIES = ("a", "b")


def directory(slot: Slot, letter: str) -> str:
    return f"{slot}/{letter}"


def other(letter: str) -> str:
    return "b" if letter == "a" else "a"


def render(assets: BootAssets) -> dict[str, bytes]:
    """File name → content. The hashes come last: a directory without them is not complete."""
    files = {KERNEL: assets.kernel, INITRD: assets.initrd, CMDLINE: f"{assets.cmdline.strip()}\n".encode(),
             RELEASE: f"{assets.release.strip()}\n".encode()}
    import hashlib

    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items())
    return {**files, SUMS: sums.encode()}


def parse(files: Mapping[str, bytes | None]) -> BootAssets | None:
    """None when a file is missing, empty, or not what the hashes say. A directory without hashes (an older k8r made
    it) is taken as it is."""
    if not files.get(KERNEL) or not files.get(INITRD):
        return None
    import hashlib

    contents = {name: files.get(name) or b"" for name in NAMES}
    for line in (files.get(SUMS) or b"").decode("ascii", "replace").splitlines():
        digest, _, name = line.partition("  ")
        if name in contents and hashlib.sha256(contents[name]).hexdigest() != digest:
            return None
    return BootAssets(kernel=contents[KERNEL], initrd=contents[INITRD],
                      cmdline=contents[CMDLINE].decode("ascii", "replace").strip(),
                      release=contents[RELEASE].decode("ascii", "replace").strip())
