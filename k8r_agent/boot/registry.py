"""Which boot backend this node has.

A backend for another loader (Raspberry Pi tryboot, U-Boot, the label swap of older k8r disks) is one class like
those here and one line in _BACKENDS: what it needs of the world are the boot partition's files and, where there are
any, the firmware's variables.
"""

from __future__ import annotations

from collections.abc import Callable

from k8r_agent.boot import grubfiles, sdfiles
from k8r_agent.boot.grub import Grub
from k8r_agent.boot.systemd_boot import SystemdBoot
from k8r_agent.errors import BootError
from k8r_agent.model.boot import BootFacts
from k8r_agent.model.slots import Slot
from k8r_agent.ports.boot import BootBackend
from k8r_agent.ports.bootfiles import BootFiles, EfiVars

_Gpt = Callable[[], bool]
_Make = Callable[[BootFiles, EfiVars, "Slot | None", int, _Gpt], BootBackend]


def _systemd_boot(files: BootFiles, efi: EfiVars, current: Slot | None, tries: int, gpt: _Gpt) -> BootBackend:
    return SystemdBoot(files, efi, current=current, tries=tries, gpt=gpt)


def _grub(files: BootFiles, efi: EfiVars, current: Slot | None, tries: int, gpt: _Gpt) -> BootBackend:
    return Grub(files, current=current, tries=tries)


# Name (as the initramfs writes it) → how to know its files, how to make it.
_BACKENDS: dict[str, tuple[Callable[[BootFiles], bool], _Make]] = {
    "grub": (lambda files: files.read(grubfiles.ENV) is not None, _grub),
    "systemd-boot": (lambda files: files.read(sdfiles.LOADER_CONF) is not None, _systemd_boot),
}


def probe(files: BootFiles, *, loader: str = "") -> str:
    """Name of the backend: the loader that started this system if its files are there, else the one whose are.

    Raises BootError when no known loader's files are on the boot partition.
    """
    present = [name for name, (known, _) in _BACKENDS.items() if known(files)]
    if loader in present:
        return loader
    if not present:
        raise BootError("no boot loader that k8r knows is on the boot partition",
                        why=f"neither {grubfiles.ENV} nor {sdfiles.LOADER_CONF}",
                        hint="is the boot partition mounted at /boot/firmware?")
    return present[0]


def open_backend(facts: BootFacts, files: BootFiles, efi: EfiVars, *, tries: int = 3,
                 gpt: _Gpt = lambda: True) -> BootBackend:
    """`gpt`: has the node's disk such a table? Asked before an entry is written. Raises BootError as probe() does."""
    return _BACKENDS[probe(files, loader=facts.loader)][1](files, efi, facts.slot, tries, gpt)
