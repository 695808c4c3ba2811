"""What firmware and boot loader do at power-on, written from what they were seen to do (systemd-boot 252 and GRUB 2.06
on OVMF), without a line of the product's code: the judge of the crash matrix must not share its mistakes.

Each class is a `Loader` of tests/fakes/world.py: boot partition, variables, the product's backend on top of them.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections.abc import Callable
from typing import NoReturn

from k8r_agent.boot import loaderfiles
from k8r_agent.boot.grub import Grub
from k8r_agent.boot.systemd_boot import SystemdBoot
from k8r_agent.model.boot import BootAssets
from k8r_agent.model.slots import Slot
from k8r_agent.ports.boot import BootBackend
from tests.fakes.bootfiles import FakeBootFiles, nowhere
from tests.fakes.efivars import FakeEfiVars

TRIES = 3
BLOCK = b"# GRUB Environment Block\n"


def _prompt(why: str) -> NoReturn:
    from tests.fakes.world import Violation

    raise Violation(f"the node ends at a prompt: {why}")


class _Machine:
    """Boot partition and variables of one node, freshly flashed: image/a holds `assets`, primary = image."""

    name: str

    def __init__(self, point: Callable[[str], None] = nowhere, *, assets: BootAssets | None = None,
                 tries: int = TRIES) -> None:
        self.tries = tries
        self.efi = FakeEfiVars(point=point)
        assets = assets or _golden()
        self.files = FakeBootFiles(loaderfiles.initial_files(self.name, assets, efi=b"EFI program"), point=point)

    def power_cut(self, keep: float = 0.0) -> None:
        """`keep`: which share of the changes in the cache reached the medium, oldest first; negative: newest first."""
        total = len(self.files.pending)
        number = round(total * abs(keep))
        self.files.power_cut(lambda i: i >= total - number if keep < 0 else i < number)

    def settle(self) -> None:
        self.files._flush()

    def pending(self) -> bool:
        return bool(self.files.pending)

    def key(self) -> object:
        return (tuple(sorted(self.files.medium.items())), tuple(sorted(self.efi.values.items())))

    def sound(self, slot: Slot, letter: str, sums: str) -> bool:
        """Is every file what a list says (sha256sum's format)? Without a list nothing can be said against them."""
        where = f"{slot}/{letter}"
        lines = self.files.medium.get(f"{where}/{sums}", b"").decode().splitlines()
        return all(self.digest(f"{where}/{name}") == digest for digest, name in (line.split() for line in lines))

    def digest(self, path: str) -> str:
        return hashlib.sha256(self.files.medium.get(path, b"")).hexdigest()

    def kernel(self, slot: Slot, letter: str) -> bytes | None:
        """None when a loader cannot start it."""
        kernel = self.files.medium.get(f"{slot}/{letter}/vmlinuz", b"")
        initrd = self.files.medium.get(f"{slot}/{letter}/initrd.img", b"")
        return kernel if kernel and initrd else None


def _golden() -> BootAssets:
    from tests.fakes.golden import assets_of

    return assets_of(1)


class SystemdBootFirmware(_Machine):
    """OVMF, the guard, systemd-boot 252."""

    name = "systemd-boot"

    def backend(self, current: Slot | None) -> BootBackend:
        return SystemdBoot(self.files, self.efi, current=current, tries=self.tries)

    def decided(self) -> Slot:
        """Whatever the counters say: which slot boots in the end is choose()."""
        conf = self.files.medium.get("loader/loader.conf", b"").decode()
        found = re.search(r"^default (\S+)", conf, re.MULTILINE)
        pattern = self.efi.values.get("LoaderEntryDefault") or (found[1] if found else "")
        return Slot.IMAGE if pattern.startswith("k8r-image") else Slot.WORKING

    def choose(self) -> tuple[Slot, bytes]:
        """The guard looks at both slots: of the working slot at the kernel, of the image slot at the initrd as well
        where that boots by default. Then it starts systemd-boot; where that gives up (one try is used then), or where
        something is damaged, it boots what is sound."""
        primary, sound = self._guards_primary(), True
        if not self.sound(Slot.WORKING, self._guards_directory(Slot.WORKING), "kernel.sha256"):
            primary, sound = Slot.IMAGE, False
        by_default = primary is Slot.IMAGE or not self._guards_tries()
        sums = "sha256sums" if by_default else "kernel.sha256"
        if self._workings_turn() and (found := self._guarded(Slot.WORKING)):
            return found
        sound = self.sound(Slot.IMAGE, self._guards_directory(Slot.IMAGE), sums) and sound
        found = self._systemd_boot() if sound else None
        found = found or self._guarded(primary) or self._guarded(primary.other)
        if found is None:
            _prompt("neither slot can be loaded")
        return found

    def _workings_turn(self) -> bool:
        """The guard's count of boots of the image slot, for want of tries of the working slot."""
        data = self.files.medium.get("loader/k8r.env", b"")
        found = re.search(rb"^image_tries=(\d)$", data, re.MULTILINE) if data.startswith(BLOCK) else None
        if found is None or self._guards_primary() is Slot.IMAGE or self._guards_tries():
            return False
        left = int(found[1])
        text = BLOCK + f"image_tries={left - 1 if left else 3}\n".encode()
        self.files.medium["loader/k8r.env"] = text.ljust(512, b"#")
        self.files.live = self.files.medium.copy()
        return left == 0

    def _guards_tries(self) -> bool:
        return any(re.search(r"/k8r-working.*\+[1-9].*\.conf$", path) for path in self.files.medium)

    def _guards_primary(self) -> Slot:
        data = self.files.medium.get("loader/loader.conf", b"")
        found = re.search(rb"^primary=(\w+)$", data, re.MULTILINE) if data.startswith(BLOCK) else None
        return Slot(found[1].decode()) if found else Slot.WORKING

    def _guarded(self, slot: Slot) -> tuple[Slot, bytes] | None:
        """By the guard itself: everything is compared with its hash."""
        letter = self._guards_directory(slot)
        if not self.sound(slot, letter, "sha256sums"):
            return None
        kernel = self.kernel(slot, letter)
        return None if kernel is None else (slot, kernel)

    def _guards_directory(self, slot: Slot) -> str:
        letter = "a"
        for path in sorted(self.files.medium):
            if path == "loader/entries/k8r-image.conf" if slot is Slot.IMAGE else \
                    path.startswith("loader/entries/k8r-working"):
                data = self.files.medium[path]
                found = re.search(rb"^dir=([\w-])$", data, re.MULTILINE) if data.startswith(BLOCK) else None
                letter = found[1].decode() if found else letter
        return letter

    def _systemd_boot(self) -> tuple[Slot, bytes] | None:
        names = self._listed()
        if not names:
            return None
        one_shot = self.efi.values.pop("LoaderEntryOneShot", None)
        name = (self._by_pattern(one_shot) or self._by_pattern(self.efi.values.get("LoaderEntryDefault"))
                or self._by_conf() or names[0])
        slot, letter = self._slot(name), self._entry(name)["dir"]
        self._count(name)
        kernel = self.kernel(slot, letter)
        return None if kernel is None else (slot, kernel)

    def _by_conf(self) -> str | None:
        conf = self.files.medium.get("loader/loader.conf", b"").decode()
        found = re.search(r"^default (\S+)", conf, re.MULTILINE)
        return self._by_pattern(found[1] if found else None)

    def _by_pattern(self, pattern: str | None) -> str | None:
        if pattern is None:
            return None
        return next((name for name in self._listed() if fnmatch.fnmatchcase(name, pattern.lower())), None)

    def _listed(self) -> list[str]:
        """Entries whose kernel file exists: those with tries left first, then by sort-key, then newest name first."""
        found = [path.rpartition("/")[2] for path in self.files.medium if path.startswith("loader/entries/")]
        names = [name for name in found if name.endswith(".conf") and self._exists(name)]
        names.sort(reverse=True)
        names.sort(key=lambda name: self._entry(name)["sort-key"])
        names.sort(key=lambda name: self._counter(name)[:1] == (0,))
        return names

    def _exists(self, name: str) -> bool:
        entry = self._entry(name)
        return bool(entry) and f"{self._slot(name)}/{entry['dir']}/vmlinuz" in self.files.medium

    def _entry(self, name: str) -> dict[str, str]:
        text = self.files.medium[f"loader/entries/{name}"].decode()
        words = [line.split(None, 1) for line in text.splitlines() if line and not line.startswith("#")]
        keys = {pair[0]: pair[1] for pair in words if len(pair) == 2}
        path = keys.get("linux", "").split("/")
        if len(path) != 4:
            return {}
        assert keys["options"].startswith(f"boot=k8r k8r.slot={path[1]} "), "kernel and arguments of different slots"
        return {**keys, "slot": path[1], "dir": path[2]}

    def _slot(self, name: str) -> Slot:
        return Slot(self._entry(name)["slot"])

    def _counter(self, name: str) -> tuple[int, ...]:
        found = re.search(r"\+(\d+)-(\d+)\.conf$", name)
        return (int(found[1]), int(found[2])) if found else ()

    def _count(self, name: str) -> None:
        counter = self._counter(name)
        if not counter:
            return
        new = re.sub(r"\+.*", f"+{max(0, counter[0] - 1)}-{counter[1] + 1}.conf", name)  # also where none is left
        assert f"loader/entries/{new}" not in self.files.medium, f"the loader cannot rename {name} to {new}"
        self.files.medium[f"loader/entries/{new}"] = self.files.medium.pop(f"loader/entries/{name}")
        self.files.live = self.files.medium.copy()


class GrubFirmware(_Machine):
    """OVMF, GRUB 2.06 with the script of boot/grubimage.py."""

    name = "grub"

    def backend(self, current: Slot | None) -> BootBackend:
        return Grub(self.files, current=current, tries=self.tries)

    def decided(self) -> Slot:
        return Slot(self._env().get("primary") or "working")

    def choose(self) -> tuple[Slot, bytes]:
        env = {"primary": "working", "once": "", "tries": "3", "image_tries": "3", "image_dir": "a",
               "working_dir": "a", **self._env()}
        pick = env["primary"]
        if env["once"]:
            pick, env["once"] = env["once"], ""
            self._save(env)
        elif pick == "working":
            if env["tries"] == "0":
                left = env["image_tries"]
                pick = "working" if left == "0" else "image"
                env["image_tries"] = {"0": "3", "1": "0", "2": "1"}.get(left, "2")
                self._save(env)
            else:
                env["tries"] = str(int(env["tries"]) - 1) if env["tries"] in list("123456789") else "2"
                self._save(env)
        for slot in (Slot(pick), Slot(pick).other):
            letter = env[f"{slot}_dir"]
            sound = self.sound(slot, letter, "sha256sums" if slot is Slot.IMAGE else "kernel.sha256")
            kernel = self.kernel(slot, letter)
            if kernel is not None and sound:
                return slot, kernel
        _prompt("GRUB can load neither slot")

    def _env(self) -> dict[str, str]:
        data = self.files.medium.get("grub/k8r.env", b"")
        if not data.startswith(BLOCK):
            return {}
        assert len(data) == 512, "GRUB could not write this block in place"
        lines = data.decode().rstrip("#").splitlines()[1:]
        return dict(line.split("=", 1) for line in lines)

    def _save(self, env: dict[str, str]) -> None:
        if not self._env():
            return  # GRUB cannot create a file
        text = "# GRUB Environment Block\n" + "".join(f"{key}={value}\n" for key, value in env.items())
        self.files.medium["grub/k8r.env"] = text.encode().ljust(512, b"#")
        self.files.live = self.files.medium.copy()


LOADERS: tuple[type[SystemdBootFirmware] | type[GrubFirmware], ...] = (SystemdBootFirmware, GrubFirmware)
