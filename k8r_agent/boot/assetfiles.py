"""A slot's boot assets as files: /<slot>/<a|b>/ on the boot partition. Pure.

Every directory carries the hashes of its files: a kernel that rots or is cut short on the FAT is found before the
node reboots into it, not by the loader.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from k8r_agent.model.boot import INITRD, KERNEL, BootAssets, Content
from k8r_agent.model.slots import Slot

CMDLINE, RELEASE = "cmdline", "release"
NAMES = (KERNEL, INITRD, CMDLINE, RELEASE)
SUMS = "sha256sums"  # as sha256sum(1) writes it, so that a person can check with `sha256sum -c`
DIRECTORIES = ("a", "b")


def directory(slot: Slot, letter: str) -> str:
    return f"{slot}/{letter}"


def other(letter: str) -> str:
    return "b" if letter == "a" else "a"


def small_files(assets: BootAssets) -> dict[str, bytes]:
    """File name → content of all but kernel and initrd. The hashes come last: a directory without them is not
    complete."""
    files = {CMDLINE: f"{assets.cmdline.strip()}\n".encode(), RELEASE: f"{assets.release.strip()}\n".encode()}
    found = {KERNEL: assets.kernel, INITRD: assets.initrd, **{n: Content.of([data]) for n, data in files.items()}}
    return {**files, SUMS: "".join(f"{content.sha256}  {name}\n" for name, content in found.items()).encode()}


def parse(small: Mapping[str, bytes | None], kernel: Content | None, initrd: Content | None, *,
          files: Callable[[], Iterator[tuple[str, Iterator[bytes]]]]) -> BootAssets | None:
    """None when a file is missing, empty, or not what the hashes say. A directory without hashes (an older k8r made
    it) is taken as it is."""
    if kernel is None or initrd is None or not kernel.size or not initrd.size:
        return None
    texts = {name: small.get(name) or b"" for name in (CMDLINE, RELEASE)}
    found = {KERNEL: kernel, INITRD: initrd, **{name: Content.of([data]) for name, data in texts.items()}}
    for line in (small.get(SUMS) or b"").decode("ascii", "replace").splitlines():
        digest, _, name = line.partition("  ")
        if name in found and found[name].sha256 != digest:
            return None
    cmdline, release = (data.decode("ascii", "replace").strip() for data in texts.values())
    return BootAssets(kernel=kernel, initrd=initrd, cmdline=cmdline, release=release, files=files)
