"""Boot loaders as the crash matrix sees them: their files, and what they do with them at power-on.

What a loader does is written here a second time, from how the real ones were observed to behave, and without the
product's parsers: a mistake there must not cancel out.
"""

from __future__ import annotations

import contextlib
import fnmatch
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from k8r_agent.boot.loaderfiles import initial_files
from k8r_agent.boot.registry import open_backend
from k8r_agent.errors import Protected
from k8r_agent.model.boot import BootAssets, BootFacts, BootState
from k8r_agent.model.slots import Slot
from k8r_agent.ports.boot import BootBackend
from tests.fakes.golden import assets_of
from tests.fakes.statepartition import MemoryBootFiles

TRIES = 3


class Prompt(AssertionError):
    """The node stands at a firmware or loader prompt, for ever."""


@dataclass
class PlainLoader:
    """The loader one would wish for: every decision is one durable write. The rule of the engine is tried on it
    before the real loaders' files add their own hazards."""

    point: Callable[[str], None]
    primary: Slot = Slot.IMAGE
    armed: Slot | None = None
    tries: int = TRIES
    kept: dict[Slot, BootAssets] = field(default_factory=lambda: {Slot.IMAGE: assets_of(1)})

    def __post_init__(self) -> None:
        self.files = MemoryBootFiles(self.point)

    def backend(self, current: Slot | None) -> BootBackend:
        return PlainBackend(self, current)

    def choose(self) -> tuple[Slot, bytes]:
        slot, self.armed = self.armed or self.primary, None
        if slot is Slot.WORKING:
            if self.tries == 0 and self.primary is Slot.WORKING:
                slot = Slot.IMAGE
            self.tries = max(0, self.tries - 1)
        return slot, self.kept[slot].kernel

    def decided(self) -> Slot:
        return self.primary

    def power_cut(self, keep: float) -> None:
        pass

    def pending(self) -> bool:
        return False

    def key(self) -> object:
        return (self.primary, self.armed, self.tries, tuple(sorted((s.value, a.release) for s, a in self.kept.items())),
                frozenset(self.files.files.items()))


@dataclass
class PlainBackend:
    loader: PlainLoader
    current: Slot | None
    name: str = "plain"

    def state(self) -> BootState:
        loader = self.loader
        return BootState(backend=self.name, current=self.current, primary=loader.primary, armed=loader.armed,
                         tries_left=loader.tries)

    def set_primary(self, slot: Slot) -> None:
        if slot not in self.loader.kept:
            raise Protected(f"{slot} cannot boot")
        self.loader.point("boot:primary:before")
        self.loader.primary = slot
        self.loader.point("boot:primary:after")

    def try_once(self, slot: Slot) -> None:
        self.loader.point("boot:arm:before")
        self.loader.armed = slot
        self.loader.point("boot:arm:after")

    def disarm(self) -> None:
        self.loader.point("boot:disarm:before")
        self.loader.armed = None
        self.loader.point("boot:disarm:after")

    def refill_tries(self) -> None:
        self.loader.point("boot:refill:before")
        self.loader.tries = TRIES
        self.loader.point("boot:refill:after")

    def install_assets(self, slot: Slot, assets: BootAssets) -> None:
        self.loader.point("boot:assets:before")
        self.loader.kept[slot] = assets
        if slot is Slot.WORKING:
            self.loader.tries = TRIES
        self.loader.point("boot:assets:after")

    def assets(self, slot: Slot) -> BootAssets | None:
        return self.loader.kept.get(slot)


class CutFiles:
    """The boot partition. Every call is durable when it returns; before that a cut leaves what the port says: a
    replaced file old or gone, a removed directory half removed, a renamed file under both names or none."""

    def __init__(self, point: Callable[[str], None]) -> None:
        self.point = point
        self.content: dict[str, bytes] = {}
        self.torn: dict[str, bytes | None] = {}  # what a cut may make of files that are being written now
        self.open = 0

    @contextlib.contextmanager
    def writable(self) -> Iterator[None]:
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1

    def read(self, path: str) -> bytes | None:
        return self.content.get(path)

    def names(self, directory: str) -> tuple[str, ...]:
        prefix = directory + "/"
        return tuple(sorted({p[len(prefix):].split("/")[0] for p in self.content if p.startswith(prefix)}))

    def write_sector(self, path: str, data: bytes) -> None:
        assert self.open and len(data) == 512 == len(self.content[path])
        self.point(f"boot:{path}:before")
        self.content[path] = data
        self.point(f"boot:{path}:after")

    def put(self, path: str, data: bytes) -> None:
        assert self.open
        self.torn = {path: None}
        self.point(f"boot:{path}:before")
        self.torn = {}
        self.content[path] = data
        self.point(f"boot:{path}:after")

    def rename(self, old: str, new: str) -> None:
        assert self.open
        self.torn = {new: self.content[old]}
        self.point(f"boot:{old}:renaming")
        self.torn = {old: None}
        self.point(f"boot:{old}:renaming")
        self.torn = {}
        self.content[new] = self.content.pop(old)
        self.point(f"boot:{new}:renamed")

    def remove(self, path: str) -> None:
        assert self.open
        for name in [p for p in self.content if p == path or p.startswith(path + "/")]:
            self.point(f"boot:{name}:remove")
            del self.content[name]
        self.point(f"boot:{path}:removed")

    def free(self) -> int:
        return 1 << 28

    def power_cut(self, keep: float) -> None:
        for path, data in self.torn.items() if keep else ():
            if data is None:
                self.content.pop(path, None)
            else:
                self.content[path] = data
        self.torn, self.open = {}, 0


class Variables:
    """EFI variables. A write is one effect."""

    def __init__(self, point: Callable[[str], None]) -> None:
        self.point = point
        self.content: dict[str, str] = {}

    def available(self) -> bool:
        return True

    def read(self, name: str) -> str | None:
        return self.content.get(name)

    def write(self, name: str, value: str) -> None:
        self.point(f"efi:{name}:before")
        self.content[name] = value
        self.point(f"efi:{name}:after")

    def delete(self, name: str) -> None:
        self.point(f"efi:{name}:before")
        self.content.pop(name, None)
        self.point(f"efi:{name}:deleted")


class _RealLoader:
    """The product's backend over a boot partition as a disk image is built."""

    name: str

    def __init__(self, point: Callable[[str], None]) -> None:
        self.files, self.efi = CutFiles(point), Variables(point)
        self.files.content.update(initial_files(self.name, assets_of(1), efi=b"loader", tries=TRIES))

    def backend(self, current: Slot | None) -> BootBackend:
        facts = BootFacts(slot=current or Slot.IMAGE, disk="vda", bootpart="vda1", rootpart="", statepart=None,
                          state="", duplicate=None, loader=self.name, watchdog=None)
        return open_backend(facts, self.files, self.efi, tries=TRIES)

    def power_cut(self, keep: float) -> None:
        self.files.power_cut(keep)

    def pending(self) -> bool:
        return bool(self.files.torn)

    def key(self) -> object:
        return (frozenset(self.files.content.items()), frozenset(self.files.torn.items()),
                frozenset(self.efi.content.items()))

    def _kernel(self, directory: str) -> bytes | None:
        """What the loader needs in order to start it: kernel and initrd."""
        kernel, initrd = (self.files.content.get(f"{directory}/{n}") for n in ("vmlinuz", "initrd.img"))
        return kernel if kernel and initrd else None


class SdLoader(_RealLoader):
    """systemd-boot 252: an entry whose kernel is missing is not listed; sorted by tries left, then sort-key; a
    one-shot and `default` are patterns over entry IDs, counter included; the counter is counted by a rename."""

    name = "systemd-boot"

    def choose(self) -> tuple[Slot, bytes]:
        entries = sorted(self._entries(), key=lambda e: (e.left == 0, e.sort_key, e.id))
        once = self.efi.content.pop("LoaderEntryOneShot", None)
        wanted = [pattern for pattern in (once, self.efi.content.get("LoaderEntryDefault"), self._default()) if pattern]
        picked = next((e for pattern in wanted for e in entries if fnmatch.fnmatch(e.id, pattern)),
                      entries[0] if entries else None)
        if picked is None:
            raise Prompt("systemd-boot has nothing to boot")
        if picked.left:
            content = self.files.content.pop(f"loader/entries/{picked.id}")
            counted = f"k8r-working+{picked.left - 1}-{picked.done + 1}.conf"
            self.files.content[f"loader/entries/{counted}"] = content
        kernel = self._kernel(picked.directory)
        assert kernel is not None
        return Slot(picked.directory.split("/")[0]), kernel

    def decided(self) -> Slot:
        return Slot.IMAGE if "image" in self._default() else Slot.WORKING

    def _default(self) -> str:
        found = re.search(rb"^default (\S+)$", self.files.content["loader/loader.conf"], re.MULTILINE)
        return found[1].decode() if found else ""

    def _entries(self) -> Iterator[_Entry]:
        for path, data in self.files.content.items():
            if path.startswith("loader/entries/"):
                entry = _Entry.read(path.rpartition("/")[2], data)
                if self._kernel(entry.directory) is not None:
                    yield entry


@dataclass(frozen=True)
class _Entry:
    id: str
    sort_key: str
    directory: str
    left: int | None
    done: int

    @classmethod
    def read(cls, name: str, data: bytes) -> _Entry:
        assert len(data) == 512, "more than one sector"
        fields = dict(line.split(None, 1) for line in data.decode().splitlines() if not line.startswith("#"))
        counter = re.search(r"\+(\d+)-(\d+)\.conf$", name)
        return cls(name, fields["sort-key"], fields["linux"].strip("/").rpartition("/")[0],
                   int(counter[1]) if counter else None, int(counter[2]) if counter else 0)


class GrubLoader(_RealLoader):
    """GRUB 2.06 with the script of the product: `once` is taken back before it is used, a boot of the primary working
    slot costs a try, and the other slot is loaded when one cannot be."""

    name = "grub"

    def choose(self) -> tuple[Slot, bytes]:
        env = self._env()
        pick, once = Slot(env["primary"]), env["once"]
        if once:
            pick = Slot(once)
            self._save({**env, "once": ""})
        elif pick is Slot.WORKING and env["tries"] == "0":
            pick = Slot.IMAGE
        elif pick is Slot.WORKING:
            self._save({**env, "tries": str(int(env["tries"]) - 1)})
        for slot in (pick, pick.other):
            kernel = self._kernel(f"{slot}/{env[f'{slot}_dir']}")
            if kernel is not None:
                return slot, kernel
        raise Prompt("GRUB can load neither slot")

    def decided(self) -> Slot:
        return Slot(self._env()["primary"])

    def _env(self) -> dict[str, str]:
        data = self.files.content["grub/k8r.env"]
        assert len(data) == 512, "more than one sector"
        return dict(line.split("=", 1) for line in data.decode().splitlines() if "=" in line)

    def _save(self, env: dict[str, str]) -> None:
        text = "# GRUB Environment Block\n" + "".join(f"{k}={v}\n" for k, v in env.items())
        self.files.content["grub/k8r.env"] = text.encode().ljust(512, b"#")


LOADERS: dict[str, Callable[[Callable[[str], None]], PlainLoader | SdLoader | GrubLoader]] = {
    "plain": PlainLoader, "systemd-boot": SdLoader, "grub": GrubLoader}
