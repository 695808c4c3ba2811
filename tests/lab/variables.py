"""Power cuts while the firmware keeps a variable: what it tells its flash is recorded, what cuts leave is booted.

    python3 -m tests.lab.variables BUILD --states 40 --seed 1

systemd-boot is told in an EFI variable to try the image slot once, and the firmware's flash is not in the disk's log.
A settled node arms and disarms its image slot, goes on with it until the flash is full of what was deleted, reboots,
so that the firmware tidies up, arms once more and boots what it armed. Flash is written byte by byte and has no cache:
each prefix of the log is what a cut leaves. With it the node must boot the slot from before or the one from after the
operation. Results are kept as by reboots.py, in BUILD/record/variables.
"""

from __future__ import annotations

import argparse
import inspect
import json
import random
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.lab import flashops
from tests.lab.accel import firmware, pflash
from tests.lab.node import Node
from tests.lab.past import BOOT, kept, wait_complete
from tests.lab.reboots import Kept, Result, State, boot_all, booted, overlaid, say
from tests.lab.site import Lab
from tests.lab.writelog import SECTOR, Replay, WriteLog

LOADER = "systemd-boot"


@dataclass(frozen=True)
class Phase:
    """One operation: `begin` and `end` are positions in the log, `old` and `new` the slots that boot there."""

    name: str
    begin: int
    end: int
    old: str
    new: str

    def allowed(self, position: int) -> set[str]:
        return {self.old} if position == self.begin else {self.new} if position == self.end else {self.old, self.new}


class Logged(Node):
    """The firmware's flash for variables has a log. The disk is as it always is."""

    @property
    def log(self) -> Path:
        return self.workdir / "flash.log"

    def _argv(self, monitor: int) -> list[str]:
        argv, plain = super()._argv(monitor), pflash(firmware().code, self.variables)[2:]
        at = argv.index(plain[1]) - 1
        append = "on" if self.log.exists() and self.log.stat().st_size else "off"
        self.log.touch()
        argv[at:at + 2] = [
            "-blockdev", f"driver=file,node-name=flash-file,filename={self.variables}",
            "-blockdev", f"driver=file,node-name=flash-log,filename={self.log},cache.no-flush=on",
            "-blockdev", "driver=blklogwrites,node-name=flash,file=flash-file,log=flash-log,"
                         f"log-append={append}",
            "-machine", "pflash1=flash"]
        return argv


class Life:
    """What is done to the node, and what of it the log holds."""

    def __init__(self, node: Logged) -> None:
        self._node = node
        self.phases: list[Phase] = []

    def tell(self) -> None:
        self._node.start()
        self._node.wait_ssh(timeout=BOOT)
        wait_complete(self._node)
        self._phase("arm", "working", "image", self._arm)
        self._phase("disarm", "image", "working", lambda: self._guest("disarm"))
        self._guest("fill", code=flashops.FULL)
        self._phase("tidy up", "working", "working", self._tidy)
        wait_complete(self._node)
        self._phase("arm again", "working", "image", self._arm)
        self._phase("boot", "image", "working", self._reboot)
        self._node.cut()

    def _phase(self, name: str, old: str, new: str, act: Callable[[], object]) -> None:
        begin = self._written()
        act()
        self.phases.append(Phase(name, begin, self._written(), old, new))
        say(f"{self.phases[-1]}")

    def _written(self) -> int:
        return len(WriteLog(self._node.log).entries)

    def _erased(self) -> int:
        """A programmed byte is logged as the sector around it; erased is more at once."""
        return sum(entry.length > SECTOR for entry in WriteLog(self._node.log).entries)

    def _guest(self, operation: str, *, code: int = 0) -> None:
        done = self._node.try_ssh(f"/usr/bin/python3 - {operation}", stdin=inspect.getsource(flashops).encode(),
                                  timeout=1800)
        if done.err:
            say(done.err.strip())
        if done.code != code:
            raise RuntimeError(f"{operation}: exit code {done.code}\n{done.err}")

    def _arm(self) -> None:
        self._guest("arm")

    def _reboot(self) -> None:
        before = self._node.wait_ssh(timeout=BOOT)
        self._node.try_ssh("systemctl reboot")
        self._node.wait_boot(before, timeout=BOOT)

    def _tidy(self) -> None:
        before = self._erased()
        self._reboot()
        if self._erased() == before:
            raise RuntimeError("the firmware did not tidy its flash up")


def record(build: Path, out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    lab = Lab(build, out / "lab")
    try:
        snapshot = kept(lab.start(), LOADER)
        disk = snapshot.restore_to(out / "node")
        shutil.copyfile(out / "node" / "OVMF_VARS.fd", out / "start.fd")
        node = Logged("node", disk=disk, network=lab.network, key=lab.key, workdir=out / "node")
        lab.nodes.append(node)
        life = Life(node)
        life.tell()
        shutil.move(node.log, out / "flash.log")
    finally:
        lab.stop()
    snapshot.disk.copy(out / "disk.img")
    for left in ("lab", "node"):
        shutil.rmtree(out / left)
    (out / "phases.json").write_text(json.dumps([asdict(phase) for phase in life.phases], indent=1) + "\n")


def draw(phases: Sequence[Phase], number: int, seed: int) -> list[State]:
    """As many of each phase; its ends come first."""
    dice, states = random.Random(seed), []
    for n in range(number):
        phase = phases[n % len(phases)]
        position = {0: phase.begin, 1: phase.end}.get(n // len(phases), dice.randint(phase.begin, phase.end))
        states.append(State(n, phase.name, position, 0))
    return states


class Worker:
    """One flash that is rebuilt, and one node at a time that boots with it."""

    def __init__(self, number: int, out: Path, log: WriteLog, phases: Sequence[Phase], lab: Lab) -> None:
        self._number, self._out, self._lab = number, out, lab
        self._phases = {phase.name: phase for phase in phases}
        self._replay = Replay(log, out / "start.fd", out / f"flash-{number}.fd")

    def boot(self, state: State) -> Result:
        workdir = self._lab.workdir / f"rebuilt-{self._number}"
        workdir.mkdir(exist_ok=True)
        shutil.copyfile(self._replay.to(state.position), workdir / "OVMF_VARS.fd")
        node = overlaid(self._lab, workdir, self._out / "disk.img", self._number)
        return booted(node, state, state.position, self._phases[state.kind].allowed(state.position))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path)
    parser.add_argument("--states", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    build = args.build.resolve()
    out = build / "record" / "variables"
    if not (out / "phases.json").exists():
        record(build, out)
    phases = [Phase(**phase) for phase in json.loads((out / "phases.json").read_text())]
    log, results = WriteLog(out / "flash.log"), Kept(out / "boots.jsonl", args.seed)
    states = [s for s in draw(phases, args.states, args.seed) if s.number not in results.done()]
    lab = Lab(build, out / "lab")
    return boot_all(lab, lambda number: Worker(number, out, log, phases, lab), states, results.told, results)


if __name__ == "__main__":
    sys.exit(main())
