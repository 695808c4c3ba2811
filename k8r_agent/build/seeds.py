"""Numbers that must be the same in two builds of the same inputs: UUIDs, volume ids, the one point in time."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from pathlib import Path

from k8r_agent.errors import UsageError

_NAMESPACE = uuid.UUID("6f1b6c34-4a0c-5f6e-9d7e-6b38722d696d")  # ours alone, fixed for ever


def derive(*parts: object) -> uuid.UUID:
    """A UUID that depends on nothing but `parts`."""
    return uuid.uuid5(_NAMESPACE, "\0".join(str(part) for part in parts))


def volume_id(*parts: object) -> str:
    """Eight hex digits, as mkfs.vfat -i wants them."""
    return derive("fat", *parts).hex[:8]


def deb_time(deb: Path) -> int:
    """Seconds since the epoch at which a package was built: time of the first member of the ar archive.

    dpkg-deb takes it from SOURCE_DATE_EPOCH, so it is the changelog's date. Raises UsageError.
    """
    with deb.open("rb") as file:
        head = file.read(36)
    try:
        if not head.startswith(b"!<arch>\ndebian-binary"):
            raise ValueError("no ar archive with debian-binary first")
        return int(head[24:36])
    except ValueError as error:
        raise UsageError(f"{deb} is not a Debian package", why=str(error)) from None


def source_date_epoch(debs: Sequence[Path], given: int | None = None) -> int:
    """`given`, else $SOURCE_DATE_EPOCH, else the newest of the packages. Raises UsageError."""
    if given is not None:
        return given
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    if text:
        if not text.isdecimal():
            raise UsageError(f"SOURCE_DATE_EPOCH={text!r} is not a number of seconds")
        return int(text)
    if not debs:
        raise UsageError("no point in time to build for", hint="give --epoch, set SOURCE_DATE_EPOCH, or name a --deb")
    return max(deb_time(deb) for deb in debs)
