"""systemd-boot's files: the decision (loader.conf), entries, and the counter in an entry's name. Pure.

Observed with systemd-boot 252 on OVMF: `default k8r-*` picks by sort-key, an entry without tries left sorts last;
entry IDs contain the counter, so a one-shot must be a pattern; an entry whose kernel is missing is not listed; lines
without a blank are skipped.

Every file is a GRUB environment block as well, for the guard (boot/grubimage.py): to GRUB the first line is the mark
of such a block, to systemd-boot a comment.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from k8r_agent.boot import assetfiles
from k8r_agent.boot.grubfiles import BLOCK_MARK, IMAGE_TRIES, render_block
from k8r_agent.boot.kernelargs import arguments
from k8r_agent.errors import BootError
from k8r_agent.model.boot import INITRD, KERNEL
from k8r_agent.model.slots import Slot
from k8r_agent.ports.bootfiles import SECTOR

LOADER_CONF = "loader/loader.conf"
ENTRIES = "loader/entries"
TURNS = "loader/k8r.env"  # the guard's own: systemd-boot counts no boots of the image slot
MAX_TRIES = 4  # the counters of both generations stay one digit wide

_DEFAULTS = {Slot.WORKING: "k8r-*", Slot.IMAGE: "k8r-image*"}
_SORT_KEYS = {Slot.WORKING: "k8r-1", Slot.IMAGE: "k8r-2"}
_NAME = re.compile(r"k8r-(image|working)(?:\+(\d+)(?:-(\d+))?)?\.conf", re.IGNORECASE)
_LINUX = re.compile(r"^(#?)linux\s+/(?:image|working)/([ab])/vmlinuz\s*$", re.MULTILINE)
_DIR = re.compile(r"^dir=.*$", re.MULTILINE)
_DEFAULT = re.compile(r"^default\s+(\S+)", re.MULTILINE)


def padded(text: str) -> bytes:
    """One sector: the text, then blanks inside a comment. Raises BootError when it does not fit."""
    data = text.encode("ascii", "replace")
    if len(data) > SECTOR - 2:
        raise BootError("a boot loader file must fit one sector", why=f"it would be {len(data)} bytes long",
                        hint="shorten the kernel arguments of this image")
    return (data + b"#").ljust(SECTOR - 1) + b"\n"


def render_loader_conf(primary: Slot) -> bytes:
    return padded(f"{BLOCK_MARK}primary={primary}\ndefault {_DEFAULTS[primary]}\ntimeout 0\neditor no\n"
                  "console-mode keep\n")


def render_turns() -> bytes:
    """As after a boot that was good. The guard counts down in it, as GRUB does in k8r.env."""
    return render_block({"image_tries": str(IMAGE_TRIES)})


def parse_loader_conf(data: bytes | None) -> Slot:
    """What systemd-boot makes of it: without a usable `default` the first entry, which is working."""
    found = _DEFAULT.search((data or b"").decode("ascii", "replace"))
    return Slot.IMAGE if found and found[1] == _DEFAULTS[Slot.IMAGE] else Slot.WORKING


def render_entry(slot: Slot, letter: str, cmdline: str, *, gpt: bool = True) -> bytes:
    """Raises BootError when it does not fit one sector. `gpt`: so is the disk's table."""
    where = assetfiles.directory(slot, letter)
    return padded(f"{BLOCK_MARK}dir={letter}\ntitle k8r {slot}\nsort-key {_SORT_KEYS[slot]}\nlinux /{where}/{KERNEL}\n"
                  f"initrd /{where}/{INITRD}\noptions {arguments(slot, cmdline, gpt=gpt)}\n")


def parse_entry(data: bytes | None) -> str | None:
    """Letter of the asset directory that it boots."""
    found = _LINUX.search((data or b"").decode("ascii", "replace"))
    return found[2] if found else None


def is_offered(data: bytes | None) -> bool:
    found = _LINUX.search((data or b"").decode("ascii", "replace"))
    return found is None or not found[1]


def withdrawn(data: bytes) -> bytes:
    """The same entry, in which neither systemd-boot nor the guard finds a kernel. Raises BootError."""
    text = _DIR.sub("dir=-", _unpadded(data))
    return padded(_LINUX.sub(lambda found: f"#{found[0]}", text))


def offered(data: bytes) -> bytes:
    """What withdrawn() made of it, undone. Raises BootError."""
    text = _DIR.sub(f"dir={parse_entry(data)}", _unpadded(data))
    return padded(_LINUX.sub(lambda found: found[0].removeprefix("#"), text))


def _unpadded(data: bytes) -> str:
    return data.decode("ascii", "replace").rstrip().removesuffix("#")


@dataclass(frozen=True, kw_only=True)
class EntryName:
    """An entry file's name. `left` is None without a counter."""

    slot: Slot
    left: int | None = None
    done: int = 0

    def __str__(self) -> str:
        counter = "" if self.left is None else f"+{self.left}-{self.done}"
        return f"k8r-{self.slot}{counter}.conf"


def parse_name(name: str) -> EntryName | None:
    found = _NAME.fullmatch(name)
    if not found:
        return None
    left = None if found[2] is None else int(found[2])
    return EntryName(slot=Slot(found[1].lower()), left=left, done=int(found[3] or 0))


def full(tries: int, generation: int) -> EntryName:
    """The working entry with all its tries.

    Two generations (3-0 2-1 1-2 0-3 and 3-4 2-5 1-6 0-7): refilling writes a file of the other one and then removes
    the used one. Both may exist after a power cut; the loader then never renames one onto the other, and there is no
    moment without any.
    """
    assert 1 <= tries <= MAX_TRIES, tries
    return EntryName(slot=Slot.WORKING, left=tries, done=0 if generation == 0 else tries + 1)


def generation(name: EntryName, tries: int) -> int:
    """A one-shot of an entry without tries left goes on counting (+0-3 → +0-4): by then any generation will do."""
    return 1 if (name.left or 0) + name.done > tries else 0


def pattern(slot: Slot) -> str:
    """What a one-shot must say: with or without a counter in the ID."""
    return f"k8r-{slot}*"


def parse_pattern(value: str | None) -> Slot | None:
    """The slot that a one-shot or default variable would pick, None when it is none of ours."""
    return next((slot for slot in Slot if value and value.lower().startswith(f"k8r-{slot}")), None)
