"""What a boot partition would boot: its files as tests/lab/fatreader.py reads them, the loaders as in
tests/fakes/firmware.py. Neither shares a line with the product or with Linux.
"""

from __future__ import annotations

import bisect
import hashlib
import os
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass

from k8r_agent.model.slots import Slot
from tests.fakes.firmware import LOADERS, GrubFirmware, SystemdBootFirmware
from tests.fakes.world import Violation
from tests.lab.fatreader import Fat, NoFat

Firmware = SystemdBootFirmware | GrubFirmware
FIRMWARES = {firmware.name: firmware for firmware in LOADERS}
LOST = 8  # boots in a row: more than two entries of the working slot have tries
ARMINGS = (None, "k8r-image*", "k8r-working*")  # the one-shot is a firmware variable: it may say anything meanwhile


@dataclass(frozen=True)
class Boot:
    """`why` is empty when a known kernel starts with the initrd of the same release."""

    slot: str
    directory: str
    release: str
    why: str = ""


class _Medium(MutableMapping[str, bytes]):
    """A boot partition's files, read when they are asked for; what a loader changes stays in memory."""

    def __init__(self, fat: Fat, contents: Contents) -> None:
        self._fat, self._contents, self._own, self._gone = fat, contents, dict[str, bytes](), set[str]()
        self.asked: list[str] = []

    def __getitem__(self, path: str) -> bytes:
        if path in self._own:
            return self._own[path]
        if path in self._gone or path not in self._fat.files:
            raise KeyError(path)
        self.asked.append(path)
        return self._contents.of(self._fat, path)[0]

    def __contains__(self, path: object) -> bool:
        return path in self._own or (path in self._fat.files and path not in self._gone)

    def __iter__(self) -> Iterator[str]:
        yield from self._own
        yield from (path for path in self._fat.files if path not in self._own and path not in self._gone)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __setitem__(self, path: str, data: bytes) -> None:
        self._own[path] = data

    def __delitem__(self, path: str) -> None:
        self._own.pop(path, None)
        self._gone.add(path)

    def copy(self) -> _Medium:
        return self


class Contents:
    """Files and their sha256, remembered as long as nobody writes to where they lie."""

    def __init__(self) -> None:
        self._known: dict[tuple[tuple[tuple[int, int], ...], int], tuple[bytes, str]] = {}
        self._touched: list[int] = []

    def touched(self, offsets: list[int]) -> None:
        """Where sectors may be of this or that content from now on; what was written before stays as it is."""
        self._touched = sorted({*self._touched, *offsets})
        self._known = {key: found for key, found in self._known.items() if not self._hit(key[0])}
        self._touched = sorted(set(offsets))

    def _hit(self, extents: tuple[tuple[int, int], ...]) -> bool:
        for at, size in extents:
            n = bisect.bisect_left(self._touched, at)
            if n < len(self._touched) and self._touched[n] < at + size:
                return True
        return False

    def of(self, fat: Fat, path: str) -> tuple[bytes, str]:
        """Nothing when it cannot be read to its end."""
        found = fat.files.get(path)
        extents, size = (tuple(fat.extents(found.cluster)), found.size) if found else ((), 0)
        if (extents, size) in self._known:
            return self._known[extents, size]
        data = fat.read(path) or b""
        read = data, hashlib.sha256(data).hexdigest()
        if not self._hit(extents):
            self._known[extents, size] = read
        return read


class Judge:
    """`known`: digest → "vmlinuz 1", "initrd.img 1/2", … with all the releases that bring it"""

    def __init__(self, loader: str, known: dict[str, str]) -> None:
        self.loader, self._known, self.contents = loader, known, Contents()
        self._last: Fat | None = None

    def boots(self, file: int) -> list[Boot]:
        """For each of ARMINGS; GRUB keeps its own in the file system."""
        armings = ARMINGS if self.loader == "systemd-boot" else ARMINGS[:1]
        try:
            fat = self._last = Fat(file, self._last)
        except NoFat as error:
            self._last = None
            return [Boot("", "", "", why=str(error)) for _ in armings]
        return [self._boots(fat, arming) for arming in armings]

    def lost(self) -> list[Boot]:
        """One after the other, what the partition last looked at boots when nobody can say of any that it was good."""
        if self._last is None:
            return []
        firmware, medium = self._machine(self._last)
        found: list[Boot] = []
        for _ in range(LOST):
            found.append(self._boot(firmware, medium, self._last))
            if found[-1].why:
                break
        return found

    def digest(self, path: str) -> str:
        """Of a file of the partition last looked at; one that is not there is like an empty one."""
        return self.contents.of(self._last, path.lower())[1] if self._last else ""

    def _machine(self, fat: Fat) -> tuple[Firmware, _Medium]:
        firmware, medium = FIRMWARES[self.loader](), _Medium(fat, self.contents)
        firmware.files.medium = medium  # type: ignore[assignment]
        firmware.digest = lambda path: self.contents.of(fat, path)[1]  # type: ignore[method-assign]
        return firmware, medium

    def _boots(self, fat: Fat, arming: str | None) -> Boot:
        firmware, medium = self._machine(fat)
        if arming and self.loader == "systemd-boot":
            firmware.efi.values["LoaderEntryOneShot"] = arming
        return self._boot(firmware, medium, fat)

    def _boot(self, firmware: Firmware, medium: _Medium, fat: Fat) -> Boot:
        try:
            slot, _ = firmware.choose()
        except (Violation, AssertionError, UnicodeDecodeError, KeyError, ValueError) as error:
            return Boot("", "", "", why=f"{type(error).__name__}: {error}")
        initrd = next(path for path in reversed(medium.asked) if path.endswith("initrd.img"))
        directory = os.path.dirname(initrd)
        names = [self._known.get(self.contents.of(fat, f"{directory}/{name}")[1], "damaged")
                 for name in ("vmlinuz", "initrd.img")]
        releases = "/".join(sorted(set.intersection(*(set(name.partition(" ")[2].split("/")) for name in names))))
        why = "" if "damaged" not in names and releases else f"{directory}: {', '.join(names)}"
        if not directory.startswith(Slot(slot).value):
            why = f"{slot} boots from {directory}"
        return Boot(str(slot), directory, releases, why)
