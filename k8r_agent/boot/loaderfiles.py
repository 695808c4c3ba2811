"""The files of a fresh boot partition, per boot backend: primary = image, so that the first boot is the image slot."""

from __future__ import annotations

from k8r_agent.boot import assetfiles, grubfiles, sdfiles
from k8r_agent.boot.programs import EFI, SD_BOOT, SUMS, render_sums
from k8r_agent.errors import BootError
from k8r_agent.model.boot import BootAssets, Content
from k8r_agent.model.slots import Slot

LOADERS = ("systemd-boot", "grub")


def small_files(slot: Slot, letter: str, assets: BootAssets) -> dict[str, bytes]:
    """Path → content of one asset directory, all but kernel and initrd; what makes it complete comes last. GRUB's are
    for the guard before systemd-boot as well."""
    files = {grubfiles.ARGUMENTS: grubfiles.render_arguments(assets.cmdline),
             grubfiles.KERNEL_SUM: grubfiles.render_kernel_sum(assets.kernel), **assetfiles.small_files(assets)}
    return {f"{assetfiles.directory(slot, letter)}/{name}": data for name, data in files.items()}


def initial_files(loader: str, assets: BootAssets, *, efi: bytes, guard: bytes | None = None,
                  tries: int = 3, gpt: bool = True) -> dict[str, bytes]:
    """Path → content. `efi` is the loader; `guard` (only for systemd-boot) is started by the firmware in its place;
    `gpt` says which table the disk has.

    Raises BootError when the kernel arguments do not fit, or for a loader that is not one of LOADERS.
    """
    where = assetfiles.directory(Slot.IMAGE, "a")
    files = {**{f"{where}/{name}": b"".join(pieces) for name, pieces in assets.files()},
             **small_files(Slot.IMAGE, "a", assets)}
    if loader == "grub":
        decision = grubfiles.GrubDecision(primary=Slot.IMAGE, tries=tries)
        return {**files, **_programs({EFI: efi}), grubfiles.ENV: grubfiles.render_decision(decision)}
    if loader != "systemd-boot":
        raise BootError(f"no boot loader is called {loader!r}", hint=f"one of {', '.join(LOADERS)}")
    programs = {EFI: efi} if guard is None else {EFI: guard, SD_BOOT: efi}
    entry = f"{sdfiles.ENTRIES}/{sdfiles.EntryName(slot=Slot.IMAGE)}"
    return {**files, **_programs(programs), sdfiles.LOADER_CONF: sdfiles.render_loader_conf(Slot.IMAGE),
            entry: sdfiles.render_entry(Slot.IMAGE, "a", assets.cmdline, gpt=gpt),
            sdfiles.TURNS: sdfiles.render_turns()}


def _programs(programs: dict[str, bytes]) -> dict[str, bytes]:
    return {**programs, SUMS: render_sums({path: Content.of([data]) for path, data in programs.items()})}
