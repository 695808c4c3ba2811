"""The boot operations of a recorded life, told apart by the marks that the guest wrote (tests/lab/operations.py).

From its begin mark to its end mark, over however many flushes, an operation leaves what was there before it or what is
there after it. At its end mark nothing of it is left that a power cut could lose, and from there on to the next
operation nothing changes.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from k8r_agent.boot.programs import EFI, SD_BOOT, SUMS
from k8r_agent.steps.enter_cluster import CONFIGURATION
from tests.lab.bootjudge import Boot, Judge
from tests.lab.operations import MARK, MARK_AT
from tests.lab.writelog import SECTOR, BadLog, Piece, Replay, WriteLog

FILES = (CONFIGURATION, EFI, SD_BOOT, SUMS)  # what operations write besides what decides about the boot
# Meanwhile the working slot may have more tries than before and after: of two entries both count.
MORE = ("primary working", "spend tries", "refill tries")
IN_USE = {0x25, 0x41}  # byte of a boot sector (FAT16, FAT32) in which Linux notes that it is mounted for writing


@dataclass(frozen=True)
class Outcome:
    """`boots` for each arming, `lost`: one after the other when nobody calls any of them good, `files`: the digests of
    FILES."""

    boots: tuple[Boot, ...]
    lost: tuple[Boot, ...]
    files: tuple[str, ...]

    @staticmethod
    def of(judge: Judge, file: int) -> Outcome:
        boots = judge.boots(file)
        return Outcome(tuple(boots), tuple(judge.lost()), tuple(map(judge.digest, FILES)))

    def __str__(self) -> str:
        lost = ", ".join(f"{boot.directory or boot.why} {len(list(same))} times"
                         for boot, same in itertools.groupby(self.lost))
        files = " ".join(digest[:8] for digest in self.files)
        return f"({', '.join(boot.directory or boot.why for boot in self.boots)}; boots lost: {lost}; files {files})"


@dataclass(frozen=True)
class Window:
    """Entries of the log between two marks, and the outcomes that are allowed there."""

    name: str
    begin: int
    end: int
    old: Outcome
    new: Outcome

    def __str__(self) -> str:
        return self.name if self.old != self.new else f"{self.name} (no change)"

    def meets(self, pieces: Sequence[Piece]) -> bool:
        """`pieces` in the order of writing."""
        return self.begin < pieces[-1].entry and pieces[0].entry < self.end

    def allows(self, now: Outcome) -> bool:
        files = zip(now.files, self.old.files, self.new.files, strict=True)  # several are written one after the other
        if not all(found in pair for found, *pair in files):
            return False
        if self.name.startswith(MORE):
            boots = zip(now.boots, self.old.boots, self.new.boots, strict=True)
            return all(found in pair for found, *pair in boots) and self._ends(now.lost)
        return (now.boots, now.lost) in ((self.old.boots, self.old.lost), (self.new.boots, self.new.lost))

    def _ends(self, lost: tuple[Boot, ...]) -> bool:
        """However often what boots first does so: then it goes on as it did, or will."""
        ways = (outcome.lost for outcome in (self.old, self.new) if outcome.lost[:1] == lost[:1])
        return any(_agree(_rest(lost), _rest(way)) for way in ways)


def _rest(lost: tuple[Boot, ...]) -> list[Boot]:
    return list(itertools.dropwhile(lambda boot: boot == lost[0], lost))


def _agree(one: list[Boot], other: list[Boot]) -> bool:
    return bool(one) is bool(other) and all(left == right for left, right in zip(one, other, strict=False))


def marks(log: WriteLog) -> list[tuple[int, str]]:
    """(number of the entry, text)."""
    here = [entry for entry in log.entries if (entry.offset, entry.length) == (MARK_AT, SECTOR) and not entry.discards]
    texts = [(entry.number, log.read(entry.data, SECTOR)) for entry in here]
    return [(number, text[len(MARK):].decode().strip()) for number, text in texts if text.startswith(MARK)]


def windows(replay: Replay, new_judge: Callable[[], Judge], wrong: list[str]) -> list[Window]:
    """`replay`: of the boot partition, on its own. What an operation has not made durable goes to `wrong`."""
    found: list[Window] = []
    marked = marks(replay.log)
    names = [text.removeprefix("begin ") for _, text in marked[::2]]
    if [text for _, text in marked] != [f"{which} {name}" for name in names for which in ("begin", "end")]:
        raise BadLog(f"{replay.log.path}: begin and end marks do not match: {marked}")
    places = [*(number for number, _ in marked), len(replay.log.entries)]
    for name, begin, end, then in zip(names, places[:-1:2], places[1::2], places[2::2], strict=True):
        old = _outcome(replay, begin, new_judge())
        if left := not_durable(replay, end):
            wrong.append(f"[{begin}, {end}) {name}: not durable at its end: {len(left)} sectors, the first of them "
                         f"of entry {left[0].entry} at {left[0].offset - replay.spans[0][0]:#x}")
        new = _outcome(replay, end, new_judge())
        found += [Window(name, begin, end, old, new), Window(f"after {name}", end, then, new, new)]
    return found


def _outcome(replay: Replay, position: int, judge: Judge) -> Outcome:
    """Once all that was written has arrived."""
    with replay.to(position).open("rb") as file:
        return Outcome.of(judge, file.fileno())


def not_durable(replay: Replay, position: int) -> list[Piece]:
    """What a power cut there may lose. The note that the partition is mounted for writing may be: nothing depends on
    it, and Linux takes it back when the partition becomes read-only, after the agent's last flush."""
    replay.durable(position)
    pieces = replay.would_change(replay.pieces(replay.log.in_flight(position)))
    start = replay.spans[0][0]
    with replay.disk.open("rb") as file:
        sector = os.pread(file.fileno(), SECTOR, 0)
    return [piece for piece in pieces if piece.offset != start or piece.length != SECTOR or not {
        n for n, (new, old) in enumerate(zip(replay.log.read(piece.data, SECTOR), sector, strict=True)) if new != old
    } <= IN_USE]
