"""UEFI variables of the boot loader interface, in memory. SetVariable() is atomic and durable: it is done or not. An
OSError of `point` is told as the real ones tell it."""

from __future__ import annotations

from collections.abc import Callable

from k8r_agent.effects.efivars import LocalEfiVars
from k8r_agent.errors import BootError
from tests.fakes.bootfiles import nowhere

_REAL = LocalEfiVars()


class FakeEfiVars:
    """`forgetful`: a firmware that accepts a write and keeps nothing. `present`: False for a BIOS machine."""

    def __init__(self, *, point: Callable[[str], None] = nowhere, present: bool = True) -> None:
        self.values: dict[str, str] = {}
        self.point, self.present, self.forgetful = point, present, False

    def available(self) -> bool:
        return self.present

    def read(self, name: str) -> str | None:
        return self.values.get(name)

    def write(self, name: str, value: str) -> None:
        with _REAL._complaint(f"the EFI variable {name} cannot be written"):
            self.point(f"efi:{name}:before")
            if not self.present:
                raise BootError(f"the EFI variable {name} cannot be written")
            if not self.forgetful:
                self.values[name] = value
            self.point(f"efi:{name}:after")
        if self.values.get(name) != value:
            raise BootError(f"the firmware did not keep the EFI variable {name}")

    def delete(self, name: str) -> None:
        with _REAL._complaint(f"the EFI variable {name} cannot be deleted"):
            self.point(f"efi:{name}:delete-before")
            self.values.pop(name, None)
            self.point(f"efi:{name}:delete-after")
