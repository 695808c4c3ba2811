"""GRUB's files: the decision (an environment block of one sector) and a slot's kernel arguments. Pure.

GRUB overwrites the block in place: one boot changes exactly one sector (observed with GRUB 2.06).
"""

from __future__ import annotations

from dataclasses import dataclass

from k8r_agent.errors import BootError
from k8r_agent.model.boot import KERNEL, Content
from k8r_agent.model.slots import Slot
from k8r_agent.ports.bootfiles import SECTOR

ENV = "grub/k8r.env"
ARGUMENTS = "grub.env"  # beside a slot's kernel: GRUB can read variables from a file, but no plain text
KERNEL_SUM = "kernel.sha256"  # checked by GRUB before each boot
MAX_TRIES = 9  # the script counts in single digits
IMAGE_TRIES = 3  # boots of the image slot for want of tries, until the working slot has its turn again
_TRIES = tuple(str(number) for number in range(MAX_TRIES + 1))

BLOCK_MARK = "# GRUB Environment Block\n"
_HEAD = BLOCK_MARK.encode()


def render_block(values: dict[str, str], *, size: int = SECTOR) -> bytes:
    """Raises BootError when it does not fit."""
    lines = (f"{key}={value}".replace("\\", "\\\\").replace("\n", "\\\n") for key, value in values.items())
    data = _HEAD + "".join(f"{line}\n" for line in lines).encode("ascii", "replace")
    if len(data) > size:
        raise BootError("a GRUB environment block is too small", why=f"{len(data)} of {size} bytes")
    return data.ljust(size, b"#")


def parse_block(data: bytes | None) -> dict[str, str] | None:
    """None when GRUB would not read it."""
    if data is None or not data.startswith(_HEAD):
        return None
    values, text = {}, data[len(_HEAD):].decode("ascii", "replace").replace("\\\n", "\n")
    for line in text.split("\n"):
        key, equals, value = line.partition("=")
        if equals and not key.startswith("#"):
            values[key] = value.replace("\\\\", "\\")
    return values


@dataclass(frozen=True, kw_only=True)
class GrubDecision:
    """What the script in grubimage.py reads; its defaults stand for a block that cannot be read. An image slot that is
    not offered has a directory that is not there (`-a`), so the script boots the other slot. `image_tries` is for the
    time in which working has no tries: boots of the image slot that are left, until working has its turn again."""

    primary: Slot = Slot.WORKING
    once: Slot | None = None
    tries: int = 3
    image_tries: int = IMAGE_TRIES
    image_dir: str = "a"
    image_offered: bool = True
    working_dir: str = "a"

    def letter(self, slot: Slot) -> str:
        return self.image_dir if slot is Slot.IMAGE else self.working_dir


def render_decision(decision: GrubDecision) -> bytes:
    return render_block({"primary": str(decision.primary), "once": str(decision.once or ""),
                         "tries": str(decision.tries), "image_tries": str(decision.image_tries),
                         "image_dir": decision.image_dir if decision.image_offered else f"-{decision.image_dir}",
                         "working_dir": decision.working_dir})


def parse_decision(data: bytes | None) -> GrubDecision:
    values, default = parse_block(data) or {}, GrubDecision()
    slots = {str(slot): slot for slot in Slot}
    tries, image_tries = values.get("tries", ""), values.get("image_tries", "")
    return GrubDecision(primary=slots.get(values.get("primary", ""), default.primary),
                        once=slots.get(values.get("once", "")),
                        tries=int(tries) if tries in _TRIES else default.tries,
                        image_tries=int(image_tries) if image_tries in _TRIES[:IMAGE_TRIES + 1] else IMAGE_TRIES,
                        image_dir="b" if values.get("image_dir", "").endswith("b") else "a",
                        image_offered=not values.get("image_dir", "").startswith("-"),
                        working_dir="b" if values.get("working_dir") == "b" else "a")


def render_kernel_sum(kernel: Content) -> bytes:
    return f"{kernel.sha256}  {KERNEL}\n".encode()


def render_arguments(cmdline: str) -> bytes:
    """`<slot>/<dir>/grub.env`: the slot's own kernel arguments as a GRUB variable."""
    values = {"cmdline": " ".join(cmdline.split())}
    return render_block(values, size=max(SECTOR, -(-(len(cmdline) + 64) // SECTOR) * SECTOR))
