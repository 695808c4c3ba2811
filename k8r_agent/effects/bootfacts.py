"""Which disk and which slot this system was booted from, and what the kernel knows of the disk."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from k8r_agent.errors import BootError
from k8r_agent.model.boot import BootFacts
from k8r_agent.model.layout import BOOT, IMAGE, STATE, WORKING
from k8r_agent.model.slots import Slot

FACTS = Path("/run/k8r/boot")
UDEV = Path("/run/udev/data")  # one file for each device, named by its number
BOOT_MOUNT, STATE_MOUNT = "/boot/firmware", "/var/lib/k8r"
_KEYS = ("slot", "disk", "bootpart", "rootpart", "statepart", "state", "duplicate", "loader", "watchdog")
_UDEV_ID = r"(?m)^E:ID_PART_(?:TABLE|ENTRY)_UUID=(\S+)$"
_OCTAL = r"\\([0-7]{3})"
_NAME = r"[A-Za-z0-9!_-]+"


@dataclass(frozen=True, kw_only=True)
class Mount:
    device: str  # major:minor
    point: str
    type: str
    options: tuple[str, ...]  # of the superblock: a mount namespace may add its own "ro"


@dataclass(frozen=True, kw_only=True)
class KernelPartition:
    """A partition as the kernel uses it; bytes."""

    name: str
    number: int
    start: int
    size: int


class Kernel:
    """What /sys and /proc say. Names are never built from pieces: a partition is found below its disk."""

    def __init__(self, *, sys: Path = Path("/sys"), dev: Path = Path("/dev"),
                 mountinfo: Path = Path("/proc/self/mountinfo")) -> None:
        self._sys, self._dev, self._mountinfo = sys, dev, mountinfo

    def device(self, name: str) -> Path:
        """The node of a kernel name (`cciss!c0d0` is /dev/cciss/c0d0)."""
        return self._dev / name.replace("!", "/")

    def disks(self, *, virtual: bool = False) -> tuple[str, ...]:
        """Whole disks with a medium. Without `virtual`: only those that a firmware can see (no loop, dm, md)."""
        found = []
        for path in sorted((self._sys / "class/block").iterdir()):
            if (path / "partition").exists() or self._number(path / "size") == 0:
                continue
            if virtual or "/virtual/" not in str(path.resolve()):
                found.append(path.name)
        return tuple(found)

    def sector(self, disk: str) -> int:
        return self._number(self._block(disk) / "queue/logical_block_size") or 512

    def partitions(self, disk: str) -> tuple[KernelPartition, ...]:
        found = []
        for path in self._block(disk).iterdir():
            number = self._number(path / "partition")
            if number:
                found.append(KernelPartition(name=path.name, number=number, start=self._number(path / "start") * 512,
                                             size=self._number(path / "size") * 512))
        return tuple(sorted(found, key=lambda p: p.number))

    def disk_of(self, device: str) -> tuple[str, int] | None:
        """Disk name and partition number of `major:minor`; None when it is not a partition."""
        path = self._sys / "dev/block" / device
        number = self._number(path / "partition")
        return (path.resolve().parent.name, number) if number else None

    def number_of(self, name: str) -> str:
        """`major:minor` of a kernel name, "" when there is no such device."""
        try:
            return (self._sys / "class/block" / name / "dev").read_text().strip()
        except OSError:
            return ""

    def mounts(self) -> tuple[Mount, ...]:
        """In the order of mounting: of two on one point the later one counts."""
        found = []
        for line in self._mountinfo.read_text().splitlines():
            left, _, right = line.partition(" - ")
            fields, kind = left.split(), right.split()
            point = re.sub(_OCTAL, lambda m: chr(int(m[1], 8)), fields[4])
            found.append(Mount(device=fields[2], point=point, type=kind[0], options=tuple(kind[2].split(","))))
        return tuple(found)

    def mounted_at(self, point: str) -> Mount | None:
        return next((m for m in reversed(self.mounts()) if m.point == point), None)

    def _block(self, name: str) -> Path:
        path = self._sys / "class/block" / name
        if not re.fullmatch(_NAME, name) or not path.exists():
            raise BootError(f"there is no disk {name}", why=f"{path} does not exist",
                            hint="was it unplugged? Reboot, then look at `k8r-agent status`")
        return path

    @staticmethod
    def _number(path: Path) -> int:
        try:
            return int(path.read_text())
        except (OSError, ValueError):
            return 0


def read_facts(kernel: Kernel, facts: Path = FACTS) -> BootFacts:
    """From the file that the initramfs left; without it (a node that an older k8r boots) from what is mounted.

    Raises BootError when neither tells the slot.
    """
    try:
        text = facts.read_text()
    except FileNotFoundError:
        return _observed(kernel)
    except OSError as error:
        raise BootError(f"cannot read {facts}", why=str(error), hint="run this as root") from error
    values = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    missing = [key for key in _KEYS[:4] if not values.get(key)]
    if missing or values["slot"] not in ("image", "working"):
        raise BootError(f"{facts} is not usable", why=f"missing: {', '.join(missing)}" if missing else
                        f"slot={values['slot']}", hint="the initramfs writes it: rebuild it, then reboot")

    def known(key: str, nothing: str) -> str | None:
        return None if values.get(key, nothing) in ("", nothing) else values[key]
    statepart, state = known("statepart", "none"), values.get("state") or "absent"
    if state != "mounted" and (since := _mounted_state(kernel, values["disk"])):
        statepart, state = since, "mounted"  # the first boot mounted it later
    return BootFacts(slot=Slot(values["slot"]), disk=values["disk"], bootpart=values["bootpart"],
                     rootpart=values["rootpart"], statepart=statepart, state=state, duplicate=known("duplicate", "no"),
                     loader=values.get("loader", ""), watchdog=known("watchdog", "none"))


def glance_for_twin(kernel: Kernel, disk: str, *, udev: Path = UDEV) -> str | None:
    """Name of another disk that carries an ID of `disk`, as far as udev has noted it: tells people, in a moment, what
    was plugged in after the initramfs looked. Before something is written, find_twin() looks properly."""
    def ids(name: str) -> set[str]:
        return {found for block in (name, *(p.name for p in kernel.partitions(name)))
                for found in re.findall(_UDEV_ID, _text(udev / f"b{kernel.number_of(block)}"))}
    try:
        mine = ids(disk)
        return next((other for other in kernel.disks() if other != disk and mine & ids(other)), None)
    except (BootError, OSError):
        return None  # a disk went away meanwhile


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _mounted_state(kernel: Kernel, disk: str) -> str:
    """Name of the disk's state partition if it is mounted where it belongs, else ""."""
    state = kernel.mounted_at(STATE_MOUNT)
    if state is None or kernel.disk_of(state.device) != (disk, STATE):
        return ""
    return next((p.name for p in kernel.partitions(disk) if p.number == STATE), "")


def _observed(kernel: Kernel) -> BootFacts:
    hint = "this system was not booted by the k8r initramfs; on a node, install k8r-agent's initramfs and reboot"
    boot, root = kernel.mounted_at(BOOT_MOUNT), kernel.mounted_at("/")
    if boot is None or root is None:
        raise BootError("cannot tell which disk is this node's", why=f"nothing is mounted at {BOOT_MOUNT}", hint=hint)
    here, there = kernel.disk_of(boot.device), kernel.disk_of(root.device)
    slots = {IMAGE: Slot.IMAGE, WORKING: Slot.WORKING}
    if here is None or there is None or here[0] != there[0] or here[1] != BOOT or there[1] not in slots:
        raise BootError("cannot tell which slot is running", hint=hint,
                        why=f"{BOOT_MOUNT} is on {here or boot.type}, / is on {there or root.type}")
    names = {p.number: p.name for p in kernel.partitions(here[0])}
    state = "mounted" if _mounted_state(kernel, here[0]) else "absent"
    return BootFacts(slot=slots[there[1]], disk=here[0], bootpart=names[BOOT], rootpart=names[there[1]],
                     statepart=names.get(STATE), state=state, duplicate=None, loader="", watchdog=None)
