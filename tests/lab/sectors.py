"""Every disk that a power cut could have left at any moment of a recorded life, judged without booting it.

    python3 -m tests.lab.sectors BUILD/record/systemd-boot-gpt [--json FILE]

Between two flushes any sector may have arrived or not. Boot partition: whatever arrived, the node must boot what it
would have booted before, or what it boots after; and were all boots from then on lost, never a slot that is half
written; a boot operation, over all its flushes, leaves what was before it or what is after it, and at its end nothing
is left to be lost (marks.py); of every fifth state, fsck.vfat must make a clean file system that boots the same.
Partition table: the old or the new one for Linux, UEFI, GRUB and libfdisk. State partition: clean for e2fsck once the
initramfs has checked it as it does, each of the agent's files whole.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from k8r_agent.model.layout import IMAGE, WORKING
from tests.fakes import tablereader
from tests.lab.bootjudge import ARMINGS, Boot, Judge
from tests.lab.disks import DiskImage, Span
from tests.lab.fatreader import Fat
from tests.lab.marks import Outcome, Window, marks, windows
from tests.lab.operations import MARK_AT
from tests.lab.writelog import Piece, Replay, WriteLog, subsets

MIB = 1 << 20
FSCK_EVERY, READERS_EVERY = 5, 50
TABLE = 34 * 512  # bytes of a GPT, at either end of the disk
INITRAMFS = Path(__file__).resolve().parents[2] / "etc" / "initramfs-tools" / "scripts" / "k8r"
LARGE = 1000  # sectors in flight; of a kernel's content it matters little which of them arrived
FORGIVEN = re.compile(r"^(fsck\.fat |.*: \d+ files|\d+\) |  .*|Leaving filesystem unchanged|Automatically|$)")


@dataclass
class Figures:
    """`epochs`: spans between two flushes in which something of that part was written."""

    what: str
    epochs: int = 0
    states: int = 0
    changed: int = 0
    checks: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def count(self, what: str) -> None:
        self.checks[what] = self.checks.get(what, 0) + 1

    def __str__(self) -> str:
        checks = "".join(f"\n    {n:6} {what}" for what, n in sorted(self.checks.items(), key=lambda item: -item[1]))
        wrong = "".join(f"\n    {line}" for line in self.wrong[:20])
        return (f"{self.what}: {self.states} states of {self.epochs} spans between flushes, {self.changed} spans "
                f"changed the outcome; wrong: {len(self.wrong)}{checks}{wrong}")


@dataclass(frozen=True)
class Torn:
    """One state: where its span begins and ends in the log, and the pieces that arrived."""

    begin: int
    end: int
    pieces: list[Piece]
    first: bool = False  # the first of its span: nothing arrived
    last: bool = False  # the span as a whole arrived


class Record:
    """`work`: the directory in it that is made anew for what is rebuilt."""

    def __init__(self, directory: Path, work: str = "work") -> None:
        self.directory = directory
        self.log = WriteLog(directory / "disk.log")
        self.start = directory / "start.img"
        self.known: dict[str, str] = json.loads((directory / "digests.json").read_text())
        self.loader, _, self.table = directory.name.rpartition("-")
        self.size = self.start.stat().st_size
        self.work = directory / work
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        ends = self.rebuild("last.img", only=((0, MIB), (self.size - MIB, MIB)))
        self.spans: dict[int, Span] = DiskImage(ends.to(len(self.log.entries))).partitions()

    def rebuild(self, name: str, *, only: tuple[tuple[int, int], ...], shift: int = 0) -> Replay:
        return Replay(self.log, self.start, self.work / name, only=only, shift=shift)

    def partition(self, number: int, name: str = "") -> Replay:
        span = self.spans[number]
        return self.rebuild(name or f"p{number}.img", only=((span.start, span.size),), shift=span.start)


def torn_states(replay: Replay, *, exhaustive: int = 8, samples: int = 40) -> Iterator[Torn]:
    """While a state is looked at, `replay.disk` is it."""
    log, begin = replay.log, 0
    for end in [*log.flushes(), len(log.entries)]:
        pieces = replay.pieces(entry for entry in log.entries[begin:end] if entry.length and not entry.lasting)
        if pieces:
            replay.durable(begin)
            changing = replay.would_change(pieces)
            with replay.torn([]):
                yield Torn(begin, end, pieces, first=True)
            with replay.torn(pieces):
                yield Torn(begin, end, pieces, last=True)
            few = samples if len(changing) < LARGE else samples // 8
            for chosen in subsets(changing, exhaustive=exhaustive, samples=few, seed=begin):
                with replay.torn(chosen):
                    yield Torn(begin, end, chosen)
        begin = end


class Heads:
    """Which slots look like file systems. A slot that is being written does not: its block 0 goes first and comes
    last, each with a flush."""

    def __init__(self, record: Record) -> None:
        self._at = {slot: record.spans[number].start + 1080 for slot, number in (("image", IMAGE),
                                                                                 ("working", WORKING))}
        self._replay = record.rebuild("heads.img", only=tuple((at - 1080, 4096) for at in self._at.values()))

    def whole(self, torn: Torn) -> set[str]:
        """Before the span, and after it as well."""
        return self._magic(self._replay.durable(torn.begin)) & self._magic(self._replay.to(torn.end))

    def _magic(self, disk: Path) -> set[str]:
        with disk.open("rb") as file:
            return {slot for slot, at in self._at.items() if os.pread(file.fileno(), 2, at) == b"\x53\xef"}


def boot_partition(record: Record) -> Figures:
    figures, replay, heads = Figures("boot partition"), record.partition(1), Heads(record)
    judge, file, whole = Judge(record.loader, record.known), os.open(replay.disk, os.O_RDONLY), set[str]()
    operations, here = _operations(record, figures), list[Window]()
    before: tuple[Boot, ...] = ()
    after: tuple[Boot, ...] = ()
    for torn in torn_states(replay):
        if torn.first:
            figures.epochs += 1
            judge.contents.touched([piece.offset - record.spans[1].start for piece in torn.pieces])
            whole = heads.whole(torn)
            here = [window for window in operations if window.meets(torn.pieces)]
        now = Outcome.of(judge, file)
        if torn.first:
            before = now.boots
        elif torn.last:
            after = now.boots
            figures.changed += before != after
        figures.states += 1
        wrong = [*_half_written(now.lost, whole), *_neither(now.boots, before, after or now.boots)]
        for window in here:
            figures.count(f"states: {window}")
            if not window.allows(now):
                wrong.append(f"{window.name}: {now} instead of {window.old} or {window.new}")
        if wrong:
            arrived = ", ".join(f"{p.entry}@{p.offset - record.spans[1].start:#x}" for p in torn.pieces[:6])
            figures.wrong += [f"[{torn.begin}, {torn.end}) {what}; arrived: {arrived}" for what in wrong]
        if figures.states % FSCK_EVERY == 0:
            _mended(record, replay.disk, list(now.boots), figures)
        if figures.states % READERS_EVERY == 0:
            _other_readers(replay.disk, Fat(file), figures)
    os.close(file)
    return figures


def _operations(record: Record, figures: Figures) -> list[Window]:
    replay = record.partition(1, "marks.img")
    found = windows(replay, lambda: Judge(record.loader, record.known), figures.wrong)
    replay.close()
    replay.disk.unlink()
    for window in found:
        if not window.name.startswith("after"):
            figures.checks[f"states: {window}"] = 0  # an operation of which nothing reaches the disk is told as well
    return found


def _half_written(lost: Iterable[Boot], whole: set[str]) -> list[str]:
    return [f"boots lost: {boot}; whole: {sorted(whole)}" for boot in dict.fromkeys(lost)
            if boot.why or boot.slot not in whole]


def _neither(now: Iterable[Boot], before: Iterable[Boot], after: Iterable[Boot]) -> list[str]:
    return [f"armed {arming}: {found} instead of {old} or {new}"
            for arming, found, old, new in zip(ARMINGS, now, before, after, strict=False)
            if found.why or found not in (old, new)]


def _mended(record: Record, disk: Path, boots: list[Boot], figures: Figures) -> None:
    """As k8r-fsck@.service does it at the next boot."""
    copy = record.work / "mended.img"
    DiskImage(disk).copy(copy)
    for what in (_fsck_fat(copy, "-a") | _fsck_fat(copy, "-a")) or {"clean"}:
        figures.count(f"fsck.vfat: {what}")
    with copy.open("rb") as file:
        now = Judge(record.loader, record.known).boots(file.fileno())
    if left := _fsck_fat(copy, "-n"):
        figures.wrong.append(f"after fsck.vfat there is still: {left}")
    if now != boots:
        figures.wrong.append(f"after fsck.vfat the node boots {now}, not {boots}")


def _fsck_fat(disk: Path, how: str) -> set[str]:
    done = subprocess.run(["/usr/sbin/fsck.vfat", how, str(disk)], capture_output=True, text=True, errors="replace")
    return {re.sub(r"[\d/,]+", "N", line).split(":")[-1].strip() for line in done.stdout.splitlines()
            if not FORGIVEN.match(line)}


def _other_readers(disk: Path, fat: Fat, figures: Figures) -> None:
    """GRUB's own file system code must read the same, and mtools unless it refuses: it takes no half-removed
    name, over which firmware and loaders go; but nothing boots through mtools."""
    for path in sorted(fat.files):
        if not path.startswith(("loader/", "grub/")):
            continue
        ours = fat.read(path)
        mtools = subprocess.run(["mtype", "-i", str(disk), f"::{path}"], capture_output=True)
        grub = subprocess.run(["grub-fstest", str(disk), "cat", f"(loop0)/{path}"], capture_output=True)
        for name, other in (("mtools", mtools), ("GRUB", grub)):
            if name == "mtools" and other.returncode and ours is not None:
                figures.count("mtools refuses a name")
                continue
            same = (other.stdout == ours) if ours is not None else other.returncode != 0
            figures.count(f"{name} reads the same" if same else f"{name} reads something else")
            if not same:
                figures.wrong.append(f"{name} reads {path} as {other.stdout[:80]!r}, not {(ours or b'')[:80]!r}")


class _Disk:
    """The Medium that tests/fakes/tablereader.py wants, over a file."""

    sector = 512

    def __init__(self, file: int) -> None:
        self._file, self.size = file, os.fstat(file).st_size

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._file, length, offset)


def _views(file: int, disk: Path, table: str) -> dict[str, object]:
    medium = _Disk(file)
    listed = subprocess.run(["/sbin/sfdisk", "--json", str(disk)], capture_output=True, text=True).stdout
    libfdisk = json.loads(listed)["partitiontable"] if listed else {}
    views: dict[str, object] = {"libfdisk": (libfdisk.get("id"), str(libfdisk.get("partitions")))}
    if table == "dos":
        return {**views, "Linux": tablereader.kernel_mbr(medium)}  # type: ignore[arg-type]
    grub, linux = tablereader.grub(medium), tablereader.linux(medium)  # type: ignore[arg-type]
    # The initramfs looks for the boot partition that GRUB says it came from.
    return {**views, "Linux": linux, "UEFI": tablereader.uefi(medium),  # type: ignore[arg-type]
            "GRUB's boot partition": grub and grub[1][:1],
            "Linux, of GRUB's boot partition,": grub and linux and grub[1][:1] == linux[1][:1]}


def partition_table(record: Record) -> Figures:
    figures = Figures("partition table")
    gap = (TABLE, MARK_AT + 512 - TABLE)  # nobody reads it; the marks are there
    first = (0, TABLE)
    end = TABLE if record.table == "gpt" else 512  # partition 4 reaches to the end of the other
    replay = record.rebuild("table.img", only=(first, (sum(gap), MIB - sum(gap)), (record.size - end, end)))
    file = os.open(replay.disk, os.O_RDONLY)
    before: dict[str, object] = {}
    after: dict[str, object] = {}
    for torn in torn_states(replay, exhaustive=10, samples=300):
        now = _views(file, replay.disk, record.table)
        figures.states += 1
        if torn.first:
            figures.epochs += 1
            before = now
        elif torn.last:
            after = now
            figures.changed += before != after
        for reader, found in now.items():
            if not found or found not in (before[reader], (after or now)[reader]):
                figures.wrong.append(f"[{torn.begin}, {torn.end}): {reader} sees {found}")
    os.close(file)
    return figures


def state_partition(record: Record) -> Figures:
    """From the moment on at which the boot partition says that it was made."""
    figures, replay = Figures("state partition"), record.partition(4)
    made, copy = _marked(record), record.work / "state.img"
    for torn in torn_states(replay, exhaustive=3, samples=2):
        figures.epochs += torn.first
        if torn.begin < made:
            continue
        figures.states += 1
        DiskImage(replay.disk).copy(copy)
        mended = _as_the_initramfs(copy)
        if "is torn" in mended:
            figures.count("superblock torn, taken from its copy")
        done = subprocess.run(["/sbin/e2fsck", "-f", "-p", str(copy)], capture_output=True, text=True)
        figures.count(f"e2fsck: {done.returncode}")
        if done.returncode > 1:
            figures.wrong.append(f"[{torn.begin}, {torn.end}): {mended[-300:]}{done.stdout[-300:]}")
        for name in ("transaction.json", "slots.json", "duties.json"):
            raw = subprocess.run(["/sbin/debugfs", "-c", "-R", f"cat {name}", str(copy)], capture_output=True).stdout
            try:
                figures.count(f"{name}: {'whole' if raw and json.loads(raw) else 'not there'}")
            except ValueError:
                figures.wrong.append(f"[{torn.begin}, {torn.end}): {name} is {raw[:100]!r}")
    return figures


def _as_the_initramfs(partition: Path) -> str:
    """What the product's own check of a file system says; it replays the journal and mends what may be mended."""
    script = f". {INITRAMFS}; k8r_log() {{ echo \"$*\"; }}; k8r_check {partition}"
    return subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True,
                          env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}).stdout


def _marked(record: Record) -> int:
    """Where in the log the marker on the boot partition became durable."""
    replay = record.partition(1)
    file = os.open(replay.disk, os.O_RDONLY)
    try:
        for position in record.log.flushes():
            replay.to(position)
            raw = Fat(file).read("k8r/state")
            if raw and raw.startswith(b"uuid="):  # before that, `new=`: it may be made, and mkfs may be cut
                return position
    finally:
        os.close(file)
        replay.close()
    return len(record.log.entries)


FAMILIES = {"boot": boot_partition, "table": partition_table, "state": state_partition}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path, nargs="+")
    parser.add_argument("--only", choices=FAMILIES, action="append")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    total, told = collections.Counter[str](), {}
    for directory in args.record:
        record = Record(directory)
        for name in args.only or FAMILIES:
            started = time.monotonic()
            figures = FAMILIES[name](record)
            if name == "boot" and record.table == "gpt" and not marks(record.log):
                figures.wrong.append("no boot operation is marked: the record is not whole, or its marks are lost")
            sys.stdout.write(f"{directory.name}: {figures}\n    ({time.monotonic() - started:.0f} s)\n")
            sys.stdout.flush()
            told[f"{directory.name} {name}"] = asdict(figures)
            total.update(states=figures.states, wrong=len(figures.wrong))
    sys.stdout.write(f"{total['states']} states, {total['wrong']} wrong\n")
    if args.json:
        args.json.write_text(json.dumps(told, indent=1) + "\n")
    return 1 if total["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
