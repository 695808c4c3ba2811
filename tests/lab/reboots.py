"""Boot disks that a power cut could have left of a recorded life (tests/lab/record.py), two at a time.

    python3 -m tests.lab.reboots BUILD/record/systemd-boot-gpt --states 40 --seed 1

A node must come up by itself, from the slot that its boot partition says (bootjudge.py) and at its first boot: only a
system that runs and goes on with its task may reboot. All moments, and every fourth of the others, are booted until
the console asks for a login; the rest, where only partitions 1 and the table are torn, until init runs: the two are
counted apart. The firmware's variables are fresh, since they are not in the disk's log. States of the partition table
are also booted without a firmware, which would repair the table before anybody sees it. Only disks that differ are
booted. Results are kept in boots.jsonl beside the log; the same seed goes on where it was stopped. What the lab
itself broke is told, not kept.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
import random
import re
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from k8r_agent.boot.kernelargs import arguments
from k8r_agent.model.slots import Slot
from tests.fakes import tablereader
from tests.lab.bootjudge import Judge
from tests.lab.images import CONSOLE
from tests.lab.node import Drive, Node, failure
from tests.lab.powercut import arriving
from tests.lab.sectors import LARGE, TABLE, Record, _Disk
from tests.lab.serial import MILESTONES
from tests.lab.site import Lab
from tests.lab.writelog import Piece, Replay, copy_spans

AT_ONCE, PATIENCE, LOOK = 2, 400.0, 10.0  # seconds
DIRECT = "partition table, no firmware"
KINDS = {"any moment": 6, "boot partition": 5, "partition table": 1, DIRECT: 1}
MOST = 3  # boots until a login: a task may ask for two reboots, into the image slot and back, before anybody sees one
LOGIN_EVERY = 4
DRAWN = 5  # times as many as are wanted, since many are the same
SLOT = re.compile(r"k8r\.slot=(\w+)")
ORDERLY = "reboot: Restarting system"
GOAL = {True: "login:", False: MILESTONES["systemd"].pattern}


@dataclass(frozen=True)
class State:
    """The pieces in flight at `position` that arrive are drawn with `seed`."""

    number: int
    kind: str
    position: int
    seed: int

    @property
    def login(self) -> bool:
        """Is it booted until somebody could log in, or only until init runs?"""
        return self.kind == "any moment" or self.number % LOGIN_EVERY == 0


@dataclass(frozen=True)
class Result:
    """`up`: it came as far as it was asked to, `login` or init, and as it should. `why` not, where it only came."""

    state: State
    login: bool
    up: bool
    slot: str
    boots: int
    seconds: float
    arrived: int
    console: str = ""
    why: str = ""


def draw(record: Record, number: int, seed: int) -> list[State]:
    """Moments in which something was in flight, spread over the kinds."""
    boot, dice = record.spans[1], random.Random(seed)
    log, gpt = record.log, record.table == "gpt"
    end = log.touching(record.size - TABLE, TABLE) if gpt else []  # else partition 4 reaches to the end
    table = sorted({*log.touching(0, TABLE), *end})
    places = {"any moment": [e.number for e in log.entries if e.length],
              "boot partition": log.touching(boot.start, boot.size),
              "partition table": table, DIRECT: table if gpt else []}
    kinds = [kind for kind in KINDS if places[kind]]
    states = []
    for n in range(number):
        kind = dice.choices(kinds, [KINDS[kind] for kind in kinds])[0]
        position = dice.choice(places[kind]) + 1 + dice.choice((0, 0, 3))
        states.append(State(n, kind, min(position, len(log.entries)), dice.randrange(1 << 30)))
    return states


def cut(replay: Replay, state: State) -> list[Piece]:
    """Brings the disk to what was durable at that moment; the pieces that arrive as well."""
    replay.durable(state.position)
    return arriving(replay.pieces(replay.log.in_flight(state.position)), random.Random(state.seed))


def fingerprint(replay: Replay, state: State) -> str:
    """The same for two states of which the disks, and the ways to boot them, are the same."""
    log, arrived = replay.log, cut(replay, state)
    begin, firmware = log.boundary(state.position), state.kind != DIRECT
    lasting = sum(entry.lasting for entry in log.entries[begin:state.position])
    if len(arrived) > LARGE or any(piece.data < 0 for piece in arrived):
        return f"{state}"  # hardly ever the same
    last = {piece.offset: piece for piece in arrived}
    digest = hashlib.sha256(f"{begin} {lasting} {firmware}".encode())
    for piece in sorted(replay.would_change(last.values()), key=lambda piece: piece.offset):
        digest.update(f" {piece.offset} ".encode() + log.read(piece.data, piece.length))
    return digest.hexdigest()


def distinct(replay: Replay, drawn: Sequence[State], number: int) -> list[State]:
    """The first `number` of them that differ, in the order in which they were drawn."""
    found = {state.number: fingerprint(replay, state) for state in sorted(drawn, key=lambda state: state.position)}
    first: dict[str, State] = {}
    for state in drawn:
        first.setdefault(found[state.number], state)
    return list(first.values())[:number]


def choose(record: Record, number: int, seed: int) -> list[State]:
    replay = Replay(record.log, record.start, record.work / "chosen.img")
    try:
        return distinct(replay, draw(record, DRAWN * number, seed), number)
    finally:
        replay.close()
        replay.disk.unlink()


class LabFault(Exception):
    """It says nothing about the disk."""


class Overlaid(Node):
    """Writes go to a file of their own, so that the rebuilt disk stays as it is. `kernel`: arguments of a boot without
    firmware."""

    kernel: Sequence[str] = ()

    def _drive(self, number: int, drive: Drive) -> list[str]:
        # The first boot index is that of -kernel.
        return ["-blockdev", f"driver=file,node-name=file{number},filename={drive.image},cache.no-flush=on",
                "-blockdev", f"driver=qcow2,node-name=node{number},file=file{number}",
                "-device", f"virtio-blk-pci,id=disk{number},drive=node{number},bootindex={number + 1}"]

    def _argv(self, monitor: int) -> list[str]:
        argv = super()._argv(monitor)
        if not self.kernel:
            return argv
        flash = [n for n, word in enumerate(argv) if word.startswith("if=pflash")]
        return [word for n, word in enumerate(argv) if n not in flash and n + 1 not in flash] + list(self.kernel)


def overlaid(lab: Lab, workdir: Path, disk: Path, number: int) -> Overlaid:
    """A node that has the address of those of the same number before it."""
    overlay = workdir / "overlay.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(disk), str(overlay)], check=True)
    node = Overlaid(workdir.name, disk=overlay, network=lab.network, key=lab.key, workdir=workdir)
    node.index = number
    return node


def fault(console: str, expected: Collection[str]) -> str:
    """What is wrong with the boots of a node that came up, "" for nothing."""
    boots = console.split("Linux version")[1:]
    slots = [(SLOT.findall(boot) or ["unknown"])[0] for boot in boots]
    if not boots or slots[0] not in expected:
        return f"the {slots[0] if slots else 'unknown'} slot booted, expected was {' or '.join(expected) or 'none'}"
    for slot, boot in zip(slots, boots[:-1], strict=False):
        if not MILESTONES["systemd"].search(boot) or ORDERLY not in boot:
            return f"a boot of the {slot} slot was lost: {' → '.join(slots)}"
    return f"{len(boots)} boots: {' → '.join(slots)}" if len(boots) > MOST else ""


def booted(node: Node, state: State, arrived: int, expected: Collection[str]) -> Result:
    """`expected`: slots, of which one must boot first."""
    started = time.monotonic()
    node.start()
    try:
        up = comes_up(node, GOAL[state.login])
    finally:
        node.cut()
    text = node.serial.text()
    slots, why = SLOT.findall(text), fault(text, expected) if up else ""
    up = up and not why
    return Result(state, state.login, up, slots[-1] if slots else "", text.count("Linux version"),
                  round(time.monotonic() - started, 1), arrived, "" if up else text[-6000:], why)


class Worker:
    """One rebuilt disk, and one node at a time that boots it."""

    def __init__(self, number: int, record: Record, lab: Lab) -> None:
        self._number, self._record, self._lab = number, record, lab
        self._replay = Replay(record.log, record.start, record.work / f"whole-{number}.img")

    def boot(self, state: State) -> Result:
        """Raises anything for a fault of the lab's."""
        chosen = cut(self._replay, state)
        with self._replay.torn(chosen) as disk:
            return self._boot(state, disk, len(chosen))

    def _boot(self, state: State, disk: Path, arrived: int) -> Result:
        workdir = self._record.work / f"rebuilt-{self._number}"
        workdir.mkdir(exist_ok=True)
        (workdir / "OVMF_VARS.fd").unlink(missing_ok=True)
        node = overlaid(self._lab, workdir, disk, self._number)
        if state.kind != DIRECT:
            return booted(node, state, arrived, self._expected(disk))
        node.kernel = self._kernel(disk)
        if not node.kernel:
            return Result(state, state.login, False, "", 0, 0.0, arrived, "GRUB would find no partition table")
        return booted(node, state, arrived, (Slot.IMAGE.value,))

    def _expected(self, disk: Path) -> Collection[str]:
        """Fresh variables arm nothing."""
        boot, part = self._record.spans[1], self._record.work / f"boot-{self._number}.img"
        copy_spans(disk, part, ((boot.start, boot.size),), boot.start)
        with part.open("rb") as file:
            found = Judge(self._record.loader, self._record.known).boots(file.fileno())[0]
        part.unlink()
        return () if found.why else (found.slot,)

    def _kernel(self, disk: Path) -> Sequence[str]:
        """What GRUB would start from such a disk: it believes the first table, whatever its sums."""
        with disk.open("rb") as file:
            seen = tablereader.grub(_Disk(file.fileno()))  # type: ignore[arg-type]
        if seen is None or not seen[1]:
            return ()
        raw = seen[1][0][1]
        first = "-".join(part[::-1].hex() for part in (raw[:4], raw[4:6], raw[6:8]))
        uuid = f"{first}-{raw[8:10].hex()}-{raw[10:].hex()}"
        boot = self._record.directory.parent.parent / "release-1" / "boot"
        return ["-kernel", str(boot / "vmlinuz"), "-initrd", str(boot / "initrd.img"), "-append",
                f"{arguments(Slot.IMAGE, CONSOLE, gpt=True)} k8r.bootpart={uuid}"]


def comes_up(node: Node, goal: str) -> bool:
    """Raises LabFault when QEMU ended by itself."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            return bool(node.serial.wait(goal, timeout=LOOK))
        except TimeoutError:
            if node.on:
                continue
        if failed := failure(node):
            raise LabFault(failed)
        return False
    return False


class Boots(Protocol):
    def boot(self, state: State) -> Result: ...


def run(worker_of: Callable[[int], Boots], states: list[State], told: Callable[[Result], None],
        failed: Callable[[State], None]) -> None:
    """`failed` is called while the lab's own fault is being handled."""
    states.sort(key=lambda state: -state.position)  # each worker's disk goes forwards only
    lock = threading.Lock()

    def work(number: int) -> None:
        worker = worker_of(number)
        while True:
            with lock:
                if not states:
                    return
                state = states.pop()
            try:
                result = worker.boot(state)
            except Exception:
                with lock:
                    failed(state)
                continue
            with lock:
                told(result)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for ended in [pool.submit(work, n) for n in range(AT_ONCE)]:
            ended.result()


class Kept:
    """boots.jsonl: a line for each boot. `faults`: of the lab, in this call."""

    def __init__(self, path: Path, seed: int) -> None:
        self._path, self._seed, self.faults = path, seed, 0
        self.lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def done(self) -> set[int]:
        return {line["state"]["number"] for line in self.lines if line["seed"] == self._seed}

    def told(self, result: Result) -> None:
        line = {"seed": self._seed, **asdict(result)}
        self.lines.append(line)
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        state, goal = result.state, "login" if result.login else "init"
        came = goal if result.up else f"{goal}, BUT {result.why}," if result.why else f"NO {goal}"
        say(f"{state.kind} at {state.position} ({result.arrived} arrived): {result.slot or '-'} "
            f"{came} after {result.boots} boots, {result.seconds:.0f} s")

    def failed(self, state: State) -> None:
        self.faults += 1
        say(f"{state.kind} at {state.position}: not counted, the lab failed: {traceback.format_exc()}")

    def summary(self) -> str:
        up = [line["login"] for line in self.lines if line["up"]]
        otherwise = sum(bool(line.get("why")) for line in self.lines)
        kinds = collections.Counter(line["state"]["kind"] for line in self.lines)
        direct = f" ({kinds[DIRECT]} by starting the kernel directly)" if kinds[DIRECT] else ""
        return (f"{len(self.lines)} rebuilt states booted{direct}: {sum(up)} came up to a login, {len(up) - sum(up)} "
                "to their init (asked no further), from another slot or after lost boots: "
                f"{otherwise}, needing hands: {self.wrong - otherwise}; not counted, the lab failed: {self.faults}; "
                f"{', '.join(f'{kind}: {n}' for kind, n in sorted(kinds.items()))}")

    @property
    def wrong(self) -> int:
        """Those that need hands, and those that came up otherwise than they should."""
        return sum(not line["up"] for line in self.lines)


def boot_all(lab: Lab, worker_of: Callable[[int], Boots], states: list[State], told: Callable[[Result], None],
             kept: Kept) -> int:
    """The exit code."""
    try:
        lab.start()
        run(worker_of, states, told, kept.failed)
    finally:
        lab.stop()
    say(kept.summary())
    return 1 if kept.wrong or kept.faults else 0


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path)
    parser.add_argument("--states", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--at-most", type=float, default=1e9, metavar="SECONDS", help="begin no boot after that time")
    args = parser.parse_args()
    end = time.monotonic() + args.at_most
    record, kept = Record(args.record.resolve(), "boots"), Kept(args.record / "boots.jsonl", args.seed)
    done = kept.done()
    states = [state for state in choose(record, args.states, args.seed) if state.number not in done]

    def told(result: Result) -> None:
        kept.told(result)
        if time.monotonic() > end:
            states.clear()

    lab = Lab(record.directory.parent.parent, record.work / "lab")
    return boot_all(lab, lambda number: Worker(number, record, lab), states, told, kept)


if __name__ == "__main__":
    sys.exit(main())
