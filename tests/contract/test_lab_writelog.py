"""The reader of write logs: hand-made logs, and one that QEMU itself wrote."""

from __future__ import annotations

import itertools
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.lab.writelog import DISCARD, FLUSH, FUA, HEAD, MAGIC, MARK, SUPER, BadLog, Replay, WriteLog, runs, subsets

SIZE = 1 << 20
Step = tuple[int, int, bytes]  # flags, offset, data; of a discard the data only tells the length


def a(byte: str, sectors: int = 1) -> bytes:
    return byte.encode() * (512 * sectors)


def write_log(path: Path, steps: list[Step], *, counted: int | None = None, sector: int = 512) -> WriteLog:
    raw = bytearray(SUPER.pack(MAGIC, 1, len(steps) if counted is None else counted, sector).ljust(sector, b"\0"))
    for flags, offset, data in steps:
        mark = bool(flags & MARK)
        head = HEAD.pack(offset // sector, 0 if mark else len(data) // sector, flags, len(data) if mark else 0)
        raw += head.ljust(sector, b"\0")
        raw += b"" if flags & DISCARD else data.ljust(-(-len(data) // sector) * sector, b"\0")
    path.write_bytes(raw)
    return WriteLog(path)


def replay(tmp_path: Path, steps: list[Step], start: bytes = b"") -> Replay:
    (tmp_path / "start").write_bytes(start.ljust(SIZE, b"\0"))
    return Replay(write_log(tmp_path / "log", steps), tmp_path / "start", tmp_path / "disk")


STEPS: list[Step] = [(0, 0, a("a", 2)), (0, 1024, a("b")), (FLUSH, 0, b""), (0, 512, a("c", 2)), (0, 512, a("d")),
                     (FUA, 4096, a("f")), (FLUSH, 0, b"")]


def test_entries(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", [*STEPS, (MARK, 0, b"begin"), (DISCARD, 8192, bytes(4096))])
    assert [(e.offset, e.length, e.flushes, e.lasting) for e in log.entries[:6]] == [
        (0, 1024, False, False), (1024, 512, False, False), (0, 0, True, False), (512, 1024, False, False),
        (512, 512, False, False), (4096, 512, False, True)]
    assert log.entries[-1].discards and log.entries[-1].length == 4096 and log.entries[-2].length == 0
    assert log.flushes() == (3, 7) and [log.boundary(n) for n in (0, 2, 3, 6, 7, 9)] == [0, 0, 3, 3, 7, 7]
    assert [e.number for e in log.in_flight(6)] == [3, 4] and log.in_flight(7) == []
    assert log.touching(1024, 512) == [1, 3] and log.touching(1024, 512, after=2) == [3]


def test_every_prefix_in_any_order(tmp_path: Path) -> None:
    disk = replay(tmp_path, STEPS)
    expected = ["", "aa", "aab", "aab", "acc", "adc", "adc"]
    positions = list(range(7))
    for position in [*positions, *random.Random(2).sample(positions, 7)]:
        raw = disk.to(position).read_bytes()
        assert "".join(chr(raw[at]) for at in (0, 512, 1024)).rstrip("\0") == expected[position], position
        assert (raw[4096] == ord("f")) == (position >= 6)


def test_power_cut_keeps_what_was_flushed_and_any_of_the_rest(tmp_path: Path) -> None:
    disk = replay(tmp_path, STEPS)
    before = disk.durable(6).read_bytes()
    assert before[:1536] == a("a", 2) + a("b") and before[4096:4608] == a("f")
    pieces = disk.log.pieces(disk.log.in_flight(6))
    assert [(p.entry, p.offset) for p in pieces] == [(3, 512), (3, 1024), (4, 512)]
    seen = set()
    for chosen in subsets(pieces):
        with disk.torn(chosen) as path:
            raw = path.read_bytes()
            seen.add(raw[512:513] + raw[1024:1025])
        assert disk.disk.read_bytes() == before
    assert seen == {bytes(pair) for pair in itertools.product(b"acd", b"bc")}


def test_what_arrived_for_good_is_written_in_its_order(tmp_path: Path) -> None:
    disk = replay(tmp_path, [*STEPS[3:], (DISCARD, 4096, bytes(512)), (0, 1536, a("g", 3))])
    pieces = disk.log.pieces(disk.log.entries)
    assert [(at, length) for at, length, _ in runs(pieces)] == [(512, 1024), (512, 512), (4096, 512), (4096, 512),
                                                                (1536, 1536)]
    disk.keep(pieces)
    kept = disk.disk.read_bytes()
    assert kept == disk.to(len(disk.log.entries)).read_bytes() and kept[512:1536] == a("d") + a("c")


def test_torn_writes_into_holes_leave_no_trace(tmp_path: Path) -> None:
    disk = replay(tmp_path, [(0, 65536, a("x", 16)), (DISCARD, 0, bytes(SIZE))], start=a("y", 8))
    before = disk.durable(2).read_bytes()
    with disk.torn(disk.log.pieces(disk.log.entries)) as path:
        assert not any(path.read_bytes())
    assert disk.disk.read_bytes() == before
    assert not any(disk.to(2).read_bytes())


def test_only_what_lies_in_a_part_of_the_disk(tmp_path: Path) -> None:
    disk = replay(tmp_path, [(0, 0, a("a", 8)), (0, 8192, a("b"))])
    assert [p.offset for p in disk.log.pieces(disk.log.entries, 1024, 1024)] == [1024, 1536]
    with disk.torn(disk.log.pieces(disk.log.entries, 1024, 512)) as path:
        assert path.read_bytes().replace(b"\0", b"") == a("a")


def test_one_partition_as_a_file_of_its_own(tmp_path: Path) -> None:
    steps: list[Step] = [(0, 512, a("a", 8)), (DISCARD, 0, bytes(2048)), (FLUSH, 0, b""), (0, 0, a("b", 16))]
    whole = replay(tmp_path, steps, start=a("s", 16))
    part = Replay(whole.log, tmp_path / "start", tmp_path / "part", only=((1024, 2048),), shift=1024)
    for position in (0, 1, 2, 3, 4, 1):
        assert part.to(position).read_bytes() == whole.to(position).read_bytes()[1024:3072]
    assert part.durable(4) and len(part.pieces(part.log.in_flight(4))) == 4
    with part.torn(part.pieces(part.log.in_flight(4))[1:2]) as path:
        assert path.read_bytes()[:1536] == bytes(512) + a("b") + a("a")
    ends = Replay(whole.log, tmp_path / "start", tmp_path / "ends", only=((0, 512), (7680, 512)))
    assert ends.to(4).read_bytes() == a("b") + bytes(7168) + a("b")
    assert [p.offset for p in ends.pieces(ends.log.entries)] == [0, 0, 7680]


def test_what_changes_nothing_is_left_out(tmp_path: Path) -> None:
    disk = replay(tmp_path, [(0, 0, a("a", 4))], start=a("a") + a("b") + a("a"))
    assert [p.offset for p in disk.would_change(disk.log.pieces(disk.log.entries))] == [512, 1536]


def test_subsets_of_many_stay_few(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", [(0, 0, a("a", 100))])
    found = list(subsets(log.pieces(log.entries), samples=10))
    assert len(found) == 2 + 4 * 10 + 10 and [] in found and log.pieces(log.entries) in found
    assert all([p.offset for p in chosen] == sorted(p.offset for p in chosen) for chosen in found)


def test_killed_between_flushes(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", STEPS, counted=3)
    assert len(log.entries) == 7
    cut = log.path.read_bytes()[:-512 - 300]  # in the last write
    log.path.write_bytes(cut)
    assert len(WriteLog(log.path).entries) == 6
    log.path.write_bytes(cut[:-600])
    assert len(WriteLog(log.path).entries) == 5
    log.path.write_bytes(b"")
    assert WriteLog(log.path).entries == ()


@pytest.mark.parametrize("offset, raw", [(0, b"x"), (8, b"\2"), (512 + 16, b"\x80"), (16, b"\xff")])
def test_what_is_no_log(tmp_path: Path, offset: int, raw: bytes) -> None:
    log = write_log(tmp_path / "log", STEPS)
    data = bytearray(log.path.read_bytes())
    data[offset:offset + 1] = raw
    log.path.write_bytes(data)
    with pytest.raises(BadLog):
        WriteLog(log.path)


def test_log_of_qemu(tmp_path: Path) -> None:
    """qemu-io drives the same filter that the virtual nodes' disks go through."""
    disk, log = tmp_path / "disk.img", tmp_path / "disk.log"
    for path, size in ((disk, SIZE), (log, 0)):
        with path.open("wb") as file:
            file.truncate(size)
    shutil.copyfile(disk, tmp_path / "start.img")
    options = f"driver=blklogwrites,file.driver=file,file.filename={disk},log.driver=file,log.filename={log}"
    commands = ["write -P 1 0 4k", "flush", "write -P 2 512 512", "write -f -P 4 16k 1k", "discard 0 512", "flush",
                "write -z 64k 8k", "aio_write -P 3 32k 16k", "aio_write -P 5 128k 512", "aio_flush"]
    subprocess.run(["qemu-io", "-t", "writeback", "--image-opts", options, *(w for c in commands for w in ("-c", c))],
                   check=True, capture_output=True, timeout=60)
    read = WriteLog(log)
    kinds = [("flush" if e.flushes else "discard" if e.discards else "fua" if e.lasting else "write", e.length)
             for e in read.entries]
    # The filter turns a write that must last (-f) into a write and a flush.
    assert kinds[:8] == [("write", 4096), ("flush", 0), ("write", 512), ("write", 1024), ("flush", 0),
                         ("discard", 512), ("flush", 0), ("write", 8192)]
    assert ("write", 16384) in kinds[8:] and ("write", 512) in kinds[8:]
    rebuilt = Replay(read, tmp_path / "start.img", tmp_path / "rebuilt.img")
    assert rebuilt.to(len(read.entries)).read_bytes() == disk.read_bytes()
    assert rebuilt.to(1).read_bytes()[:4097] == b"\1" * 4096 + b"\0"
    torn = rebuilt.durable(4).read_bytes()
    assert torn[512:513] == b"\1" and not any(torn[16384:17408])
