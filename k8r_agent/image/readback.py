"""Is a slot, as its medium returns it, what an index says? After a write, and before an image is trusted again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial

from k8r_agent.errors import ReadBackMismatch
from k8r_agent.image.ahead import in_order
from k8r_agent.image.index import chunk_range, used_bytes, used_ranges
from k8r_agent.model.bundle import ImageIndex
from k8r_agent.ports.blockdev import BlockDevice
from k8r_agent.ports.machine import Reporter

PIECE = 1 << 20  # bytes read at a time
ZEROS = bytes(PIECE)


def verify(device: BlockDevice, index: ImageIndex, *, report: Reporter, changed: Mapping[int, str] | None = None,
           hint: str = "") -> int:
    """Compare every used block of `device` with the index; chunks named in `changed` have that hash instead.

    Returns the number of bytes read. Raises ReadBackMismatch naming the first wrong chunk, DiskError.
    """
    device.drop_cache()
    total, done = used_bytes(index), 0
    jobs = (partial(_job, device, index, number, ranges) for number, ranges in enumerate(used_ranges(index)) if ranges)

    def beat() -> None:
        report.progress(done, total)

    beat()
    for number, length, digest in in_order(jobs, workers=2, depth=2, beat=beat):
        expected = (changed or {}).get(number, index.chunks[number].sha256)
        if digest != expected:
            start, size = chunk_range(index, number)
            raise ReadBackMismatch(
                f"the content at {start} to {start + size} of the slot is not what it should be",
                why=f"chunk {number}: sha256 {digest[:16]}…, expected {expected[:16]}…", hint=hint)
        done += length
        report.progress(done, total)
    return done


def chunk_digest(device: BlockDevice, index: ImageIndex, number: int, ranges: tuple[tuple[int, int], ...]) -> str:
    """Hash of one chunk as the device has it, unused blocks taken as zero."""
    start, size = chunk_range(index, number)
    digest, at = hashlib.sha256(), 0
    for offset, length in (*ranges, (size, 0)):
        while at < offset:
            step = min(PIECE, offset - at)
            digest.update(ZEROS if step == PIECE else ZEROS[:step])
            at += step
        while at < offset + length:
            step = min(PIECE, offset + length - at)
            digest.update(device.read(start + at, step))
            at += step
    return digest.hexdigest()


def _job(device: BlockDevice, index: ImageIndex, number: int,
         ranges: tuple[tuple[int, int], ...]) -> tuple[int, int, str]:
    return number, sum(length for _, length in ranges), chunk_digest(device, index, number, ranges)
