"""The marker k8r/state on the boot partition: whether this disk's state partition was initialised. Pure.

It is the only thing that lets mkfs run. `new=UUID`, written just before the table that makes the partition: there is
nothing on it, and this is the file system it may be given. `uuid=UUID`, one sector later: it was initialised, and is
never formatted again. Nothing at all, or a file that cannot be read: nobody knows, so it is never formatted either.

The initramfs reads it with shell tools: `key=value` lines, padded with newlines to one sector.
"""

from __future__ import annotations

import uuid as uuids
from dataclasses import dataclass

PATH = "k8r/state"
LENGTH = 512
_LIFE = uuids.UUID("6f1d7a43-3c50-4f0e-9d43-1b8f6f0a7f52")


@dataclass(frozen=True, kw_only=True)
class Marker:
    """`uuid` of the state file system ("" when the marker is there but cannot be read), `time` in seconds since the
    epoch (also the floor of a clock without battery), `disk` the disk's GUID. `new` instead of `uuid`: it may be
    made; `fresh`: and so was the working slot, by the same table write, so there is nothing on that either; `former`:
    start and size, in bytes, of a state partition of another life of the disk: it was found, so none is made."""

    uuid: str = ""
    time: int = 0
    disk: str = ""
    new: str = ""
    fresh: bool = False
    former: tuple[int, int] | None = None


def build(marker: Marker) -> bytes:
    first = f"new={marker.new}" + ("\nfresh=yes" if marker.fresh else "") if marker.new else f"uuid={marker.uuid}"
    if marker.new and marker.former:
        first += "\nformer={}+{}".format(*marker.former)
    text = f"{first}\ntime={marker.time}\ndisk={marker.disk}\n"
    return text.encode("ascii").ljust(LENGTH, b"\n")


def parse(data: bytes) -> Marker:
    """Never fails: a marker that is there, however damaged, means that the partition must not be formatted."""
    pairs = (line.split("=", 1) for line in data.decode("ascii", "replace").splitlines() if "=" in line)
    values = {key.strip(): value.strip() for key, value in pairs}
    uuid, new = (_uuid(values.get(key, "")) for key in ("uuid", "new"))
    time = values.get("time", "")
    new = "" if "uuid" in values else new
    return Marker(uuid=uuid, new=new, fresh=bool(new) and values.get("fresh") == "yes", disk=values.get("disk", ""),
                  former=_place(values.get("former", "")) if new else None,
                  time=int(time) if time.isdecimal() and len(time) < 20 else 0)


def _place(text: str) -> tuple[int, int] | None:
    start, _, size = text.partition("+")
    if not (start.isdecimal() and size.isdecimal() and len(text) < 40):
        return None
    return int(start), int(size)


def _uuid(text: str) -> str:
    try:
        return str(uuids.UUID(text))
    except ValueError:
        return ""


def uuid_of_life(disk: str, partition: str) -> str:
    """UUID of the state file system that belongs to this life of a disk, from the table's IDs.

    The first boot's table write makes those anew, so a file system with this UUID can only have been made afterwards,
    by this agent: after a power cut between mkfs and marker it is recognised without having been remembered anywhere.
    """
    return str(uuids.uuid5(_LIFE, f"{disk.lower()}/{partition.lower()}"))
