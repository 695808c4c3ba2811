"""Where a slot's kernel and initrd come from, outside a task: after the distribution installed a new kernel, or when
the boot partition was damaged."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from k8r_agent.errors import BootError, Refused
from k8r_agent.model.boot import BootAssets
from k8r_agent.model.slots import Slot

if TYPE_CHECKING:
    from k8r_agent.cli.node import Node

_DIGITS = re.compile(r"(\d+)")


@contextlib.contextmanager
def find(slot: Slot, kernel: Path | None, initrd: Path | None, node: Node) -> Iterator[BootAssets]:
    """Their files can be read while it is open. Raises Refused where a kernel would be put beside the modules of
    another one."""
    if node.facts() is None:
        raise Refused("no kernel is installed", why="this system was not booted by k8r")
    if kernel and initrd:
        yield _read(kernel, initrd, slot, node)
        return
    if slot is Slot.IMAGE:
        with _from_bundle(node) as found:
            yield found
        return
    if node.world.boot.state().current is not Slot.WORKING:
        raise Refused("the working slot's kernel is not replaced", why="the node does not run from it, so its kernel "
                      "cannot be seen", hint="mount it and give --kernel and --initrd, or `k8r-agent reinstall`")
    yield _read(*newest(node.root / "boot"), slot, node)


def newest(boot: Path) -> tuple[Path, Path]:
    """The newest kernel that has an initrd. Raises BootError when there is none."""
    found = []
    for kernel in boot.glob("vmlinuz-*"):
        initrd = boot / kernel.name.replace("vmlinuz-", "initrd.img-")
        if initrd.is_file() and kernel.is_file():
            found.append((_version(kernel), kernel, initrd))
    if not found:
        raise BootError("there is no kernel to install", why=f"{boot} holds no vmlinuz-… with its initrd.img-…")
    return max(found)[1:]


def _version(kernel: Path) -> list[tuple[int, str]]:
    """6.1.0-9 before 6.1.0-10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in _DIGITS.split(kernel.name)]


def _read(kernel: Path, initrd: Path, slot: Slot, node: Node) -> BootAssets:
    """The slot's own kernel arguments stay as they are; a slot without any gets those of the other one."""
    from k8r_agent.image.bootassets import from_files

    present = node.world.boot.assets(slot) or node.world.boot.assets(slot.other)
    return from_files(kernel, initrd, cmdline=present.cmdline if present else "",
                      release=kernel.name.removeprefix("vmlinuz-") or kernel.name)


@contextlib.contextmanager
def _from_bundle(node: Node) -> Iterator[BootAssets]:
    """Of exactly the release that the image slot holds."""
    from k8r_agent.image.bootassets import assets_digest
    from k8r_agent.steps.image_slot import kept_boot_digest

    status = node.slots.status(Slot.IMAGE)
    source = (node.slots.kept(status.release, "source") or b"").decode(errors="replace").strip()
    if not source:
        raise Refused("the image slot's kernel is not replaced", why="nothing says which bundle it was written from",
                      hint="k8r-agent update DIR|URL writes both")
    with node.bundles.open(source) as bundle:
        if bundle.manifest.release != status.release:
            raise Refused("the image slot's kernel is not replaced", why=f"{source} now holds release "
                          f"{bundle.manifest.release}, the slot release {status.release}", hint="k8r-agent update")
        found, wanted = bundle.boot_assets(), kept_boot_digest(node.world, status.release)
        if wanted and assets_digest(found) != wanted:
            raise Refused("the image slot's kernel is not replaced", why=f"{source} holds another release "
                          f"{status.release} than the slot", hint="k8r-agent update")
        yield found
