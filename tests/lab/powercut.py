"""Power cuts as a disk sees them: what the guest had not flushed arrives in part, or not at all.

A killed QEMU leaves everything it wrote in the host's page cache. So each time the node is switched on, its disk is
copied and every write is logged; at a cut the disk is made anew from that copy, all that was flushed, and of what was
in flight whatever the dice say, sector by sector. The firmware's variables are written through and stay as they are.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tests.lab.disks import DiskImage
from tests.lab.node import Node
from tests.lab.writelog import BadLog, Piece, Replay, WriteLog

SHARES = (0.0, 0.1, 0.5, 0.9, 1.0)  # of the sectors in flight that arrive


@dataclass(frozen=True)
class Loss:
    """Entries of the log, and sectors in flight at the cut."""

    entries: int
    in_flight: int
    arrived: int


class Plug:
    """The only way to switch a node with such a disk on and off."""

    def __init__(self, node: Node, dice: random.Random) -> None:
        self.node, self._dice = node, dice
        self._before, self._log = node.workdir / "before.img", node.workdir / "writes.log"

    def on(self) -> None:
        self._log.unlink(missing_ok=True)
        self.node.disk.copy(self._before)
        self.node.drives[0] = replace(self.node.drives[0], log=self._log)
        self.node.start()

    def wait_write(self, start: int, size: int, *, timeout: float) -> None:
        """Until the guest writes to that part of the disk."""
        end = time.monotonic() + timeout
        while not self._written(start, size):
            if time.monotonic() > end:
                raise TimeoutError(f"{self.node.name} wrote nothing to bytes {start} to {start + size} of its disk")
            time.sleep(0.2)

    def _written(self, start: int, size: int) -> bool:
        try:
            written = WriteLog(self._log)
        except (FileNotFoundError, BadLog):  # QEMU is just now writing it
            return False
        try:
            return bool(written.touching(start, size))
        finally:
            written.close()

    def cut(self) -> Loss:
        self.node.cut()
        loss = rebuild(self._before, self._log, self.node.disk.path, self._dice)
        self._forget()
        return loss

    def off(self, *, timeout: float = 300.0) -> None:
        """As it should be done: what was written stays. Raises TimeoutError when the node does not go off itself."""
        self.node.stop(timeout=timeout)
        if (why := self.node.qmp.why_it_ended()) != "guest-shutdown":
            raise TimeoutError(f"{self.node.name} did not switch itself off within {timeout:g} s ({why or 'cut'})")
        self._forget()

    def _forget(self) -> None:
        for path in (self._before, self._log):
            path.unlink(missing_ok=True)


def arriving(pieces: Sequence[Piece], dice: random.Random) -> list[Piece]:
    """Of what is in flight at a cut."""
    share = dice.choice(SHARES)
    return [piece for piece in pieces if dice.random() < share]


def rebuild(before: Path, log: Path, disk: Path, dice: random.Random) -> Loss:
    """`disk` as the cut left it at the end of the log."""
    if not log.exists():
        DiskImage(before).copy(disk)
        return Loss(0, 0, 0)
    written = WriteLog(log)
    try:
        end = len(written.entries)
        replay = Replay(written, before, disk)
        replay.durable(end)
        pieces = written.pieces(written.in_flight(end))
        arrived = arriving(pieces, dice)
        replay.keep(arrived)
        replay.close()
        return Loss(end, len(pieces), len(arrived))
    finally:
        written.close()
