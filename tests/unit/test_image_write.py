"""The slot writer on a disk in memory: what is written, in which order, and what every power cut leaves."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k8r_agent.errors import Cancelled, DiskError, DiskTooSmall, ReadBackMismatch
from k8r_agent.image import readback
from k8r_agent.image.write import BLOCK, Written, differing_runs, write
from tests.fakes.blockdev import FakeDevice, PowerCut, cut_at
from tests.fakes.bundles import FakeSource, make_image, make_index

USED = ((0, 20), (30, 10), (41, 1))
IMAGE = make_image(used=USED)
INDEX = make_index(IMAGE, used=USED)


class Report:
    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []
        self.cancel_at: int | None = None

    def status(self, text: str) -> None: ...

    def progress(self, done: int, total: int) -> None:
        self.seen.append((done, total))
        if self.cancel_at is not None and done >= self.cancel_at:
            raise Cancelled("cancelled")


def holds(device: FakeDevice, image: bytes = IMAGE, used: tuple[tuple[int, int], ...] = USED) -> bool:
    return all(device.medium[first * BLOCK:(first + count) * BLOCK] == image[first * BLOCK:(first + count) * BLOCK]
               for first, count in used)


def run(device: FakeDevice, *, dear: bool = False, indexed: bool = True) -> tuple[Written, FakeSource]:
    source = FakeSource(IMAGE, INDEX if indexed else None, dear=dear)
    written = write(device, source, report=Report())
    readback.verify(device, written.index, report=Report(), changed=written.changed)
    return written, source


def junk(size: int = 1 << 20, seed: int = 9) -> FakeDevice:
    return FakeDevice(size, content=random.Random(seed).randbytes(size))


@pytest.mark.parametrize("dear", [False, True])
def test_used_blocks_are_written_and_no_others(dear: bool) -> None:
    device = junk()
    before = bytes(device.medium)
    run(device, dear=dear)
    assert holds(device)
    unused = [b for b in range(device.size // BLOCK) if not any(f <= b < f + c for f, c in USED)]
    assert all(device.medium[b * BLOCK:(b + 1) * BLOCK] == before[b * BLOCK:(b + 1) * BLOCK] for b in unused)


def test_the_superblock_goes_first_and_comes_last_with_a_flush_before_each() -> None:
    device = junk()
    run(device)
    log = [(e.what, e.offset) for e in device.log]
    assert log[:2] == [("write", 0), ("flush", 0)], "the old superblock is wiped durably before anything else"
    last = max(n for n, entry in enumerate(log) if entry == ("write", 0))
    assert log[last - 1] == ("flush", 0) and log[last + 1] == ("flush", 0)
    assert all(what != "write" for what, _ in log[last + 1:])


@pytest.mark.parametrize("dear", [False, True])
def test_what_is_there_is_not_written_again(dear: bool) -> None:
    device = junk()
    run(device, dear=dear)
    device.log.clear()
    written, source = run(device, dear=dear)
    assert not device.writes and written.written == 0
    assert written.skipped == sum(count for _, count in USED) * BLOCK
    assert source.fetches == ([0] if dear else [0, 1, 2]), "what the target holds is not fetched over a network"


def test_a_single_differing_block_is_the_only_one_written() -> None:
    device = junk()
    run(device)
    device.medium[33 * BLOCK + 7] ^= 1
    device.cut()
    device.log.clear()
    run(device)
    offsets = [e.offset for e in device.writes]
    assert offsets == [0, 33 * BLOCK, 0]


def test_a_stream_without_index_writes_everything_and_makes_an_index() -> None:
    device = junk()
    written, _ = run(device, indexed=False)
    assert device.medium[:len(IMAGE)] == IMAGE
    assert written.index.used == ((0, len(IMAGE) // BLOCK),) and written.index.size == len(IMAGE)


@pytest.mark.fault(33)
def test_too_large_is_said_before_the_first_byte() -> None:
    device = FakeDevice(len(IMAGE) - BLOCK)
    with pytest.raises(DiskTooSmall) as caught:
        write(device, FakeSource(IMAGE, INDEX), report=Report())
    assert not device.log and "4096 bytes too many" in str(caught.value)


def test_a_stream_of_unknown_size_stops_at_the_end_of_the_slot() -> None:
    device = FakeDevice(len(IMAGE) - BLOCK)
    source = FakeSource(IMAGE, None)
    source.size = 0
    source.chunks = lambda: iter([IMAGE])  # type: ignore[method-assign]
    with pytest.raises(DiskTooSmall):
        write(device, source, report=Report())


@pytest.mark.fault(21)
@pytest.mark.parametrize("late", [False, True])
def test_a_write_error_is_an_error_wherever_it_is_met(late: bool) -> None:
    device = junk()
    device.bad_writes, device.late_errors = {31 * BLOCK}, late
    with pytest.raises(DiskError):
        run(device)
    assert bytes(device.medium[:BLOCK]) == bytes(BLOCK), "a failed write leaves no file system behind"


def test_an_unreadable_block_of_the_target_is_an_error() -> None:
    device = junk()
    device.bad_reads = {3 * BLOCK}
    with pytest.raises(DiskError):
        run(device)


@pytest.mark.fault(22)
def test_a_medium_that_lies_is_found_at_read_back() -> None:
    device = junk()
    device.rotten = {35 * BLOCK + 5}
    with pytest.raises(ReadBackMismatch) as caught:
        run(device)
    assert "chunk 2" in str(caught.value)


def test_rot_in_an_unused_block_does_not_matter() -> None:
    device = junk()
    device.rotten = {25 * BLOCK}
    run(device)


def test_cancel_stops_the_write() -> None:
    device, report = junk(), Report()
    report.cancel_at = 1
    with pytest.raises(Cancelled):
        write(device, FakeSource(IMAGE, INDEX), report=report)
    run(device)
    assert holds(device)


def test_progress_never_runs_backwards_and_ends_at_its_total() -> None:
    report = Report()
    write(junk(), FakeSource(IMAGE, INDEX), report=report)
    assert report.seen == sorted(report.seen) and report.seen[-1][0] == report.seen[-1][1]


@pytest.mark.fault(1)
def test_after_a_cut_at_any_point_the_next_run_succeeds() -> None:
    """Exhaustive over the points of one write, with several guesses each of what survived in the cache."""
    count = 0
    while True:
        for seed in range(3):
            device = junk(size=64 * BLOCK)
            device.point = cut_at(count)
            try:
                write(device, FakeSource(IMAGE, INDEX), report=Report())
            except PowerCut:
                device.point = lambda name: None
                device.cut(random.Random(seed))
                block0 = bytes(device.medium[:BLOCK])
                complete = holds(device, used=((1, 19), (30, 10), (41, 1)))
                assert block0 != IMAGE[:BLOCK] or complete, "a superblock over a half-written slot"
                run(device)
                assert holds(device)
            else:
                assert count > 10
                return
        count += 1


@settings(max_examples=50)
@given(st.integers(), st.booleans(), st.integers(1, 60))
def test_any_target_becomes_the_image(seed: int, dear: bool, same: int) -> None:
    """Targets that hold some of the image already, in any pattern."""
    rng = random.Random(seed)
    content = bytearray(rng.randbytes(80 * BLOCK))
    for block in rng.sample(range(64), same):
        content[block * BLOCK:(block + 1) * BLOCK] = IMAGE[block * BLOCK:(block + 1) * BLOCK]
    device = FakeDevice(len(content), content=bytes(content))
    run(device, dear=dear)
    assert holds(device)


@given(st.binary(min_size=1, max_size=40), st.binary(min_size=1, max_size=40))
def test_runs_are_exactly_the_differing_blocks(one: bytes, two: bytes) -> None:
    old = b"".join(bytes([x % 3]) * BLOCK for x in one)
    new = b"".join(bytes([x % 3]) * BLOCK for x in two)[:len(old)].ljust(len(old), b"\1")
    runs = differing_runs(old, new)
    patched = bytearray(old)
    for low, high in runs:
        patched[low:high] = new[low:high]
    assert bytes(patched) == new
    assert sum(high - low for low, high in runs) == sum(
        BLOCK for at in range(0, len(old), BLOCK) if old[at:at + BLOCK] != new[at:at + BLOCK])
    assert all(a[1] < b[0] for a, b in itertools.pairwise(runs))
