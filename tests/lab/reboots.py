"""Boot disks that a power cut could have left of a recorded life (tests/lab/record.py), two at a time.

    python3 -m tests.lab.reboots BUILD/record/systemd-boot-gpt --states 40 --seed 1

A node must come up by itself: its console asks for a login. The firmware's variables are fresh, since they are not in
the disk's log. States of the partition table are also booted without a firmware, which would repair the table before
anybody sees it. Results are kept in boots.jsonl beside the log; the same seed goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from k8r_agent.boot.kernelargs import arguments
from k8r_agent.model.slots import Slot
from tests.fakes import tablereader
from tests.lab.images import CONSOLE
from tests.lab.node import Drive, Node
from tests.lab.sectors import Record, _Disk
from tests.lab.site import Lab
from tests.lab.writelog import Replay

AT_ONCE, PATIENCE = 2, 400.0  # seconds
KINDS = {"any moment": 5, "boot partition": 4, "partition table": 2, "partition table, no firmware": 2}
SLOT = re.compile(r"k8r\.slot=(\w+)")


@dataclass(frozen=True)
class State:
    """The pieces in flight at `position` that arrive are drawn with `seed`."""

    number: int
    kind: str
    position: int
    seed: int


@dataclass(frozen=True)
class Result:
    state: State
    up: bool
    slot: str
    boots: int
    seconds: float
    arrived: int
    console: str = ""


def choose(record: Record, number: int, seed: int) -> list[State]:
    """Moments in which something was in flight, spread over the kinds."""
    boot, dice = record.spans[1], random.Random(seed)
    log, size = record.log, record.size
    table = sorted({*log.touching(0, 34 * 512), *log.touching(size - 34 * 512, 34 * 512)})
    places = {"any moment": [e.number for e in log.entries if e.length],
              "boot partition": log.touching(boot.start, boot.size),
              "partition table": table, "partition table, no firmware": table if record.table == "gpt" else []}
    kinds = [kind for kind in KINDS if places[kind]]
    states = []
    for n in range(number):
        kind = dice.choices(kinds, [KINDS[kind] for kind in kinds])[0]
        position = dice.choice(places[kind]) + 1 + dice.choice((0, 0, 3))
        states.append(State(n, kind, min(position, len(log.entries)), dice.randrange(1 << 30)))
    return states


class Overlaid(Node):
    """Writes go to a file of their own, so that the rebuilt disk stays as it is. `kernel`: arguments of a boot without
    firmware."""

    kernel: Sequence[str] = ()

    def _drive(self, number: int, drive: Drive) -> list[str]:
        return ["-blockdev", f"driver=file,node-name=file{number},filename={drive.image},cache.no-flush=on",
                "-blockdev", f"driver=qcow2,node-name=node{number},file=file{number}",
                "-device", f"virtio-blk-pci,id=disk{number},drive=node{number},bootindex={number}"]

    def _argv(self, monitor: int) -> list[str]:
        argv = super()._argv(monitor)
        if not self.kernel:
            return argv
        flash = [n for n, word in enumerate(argv) if word.startswith("if=pflash")]
        return [word for n, word in enumerate(argv) if n not in flash and n + 1 not in flash] + list(self.kernel)


class Worker:
    """One rebuilt disk, and one node at a time that boots it."""

    def __init__(self, number: int, record: Record, lab: Lab) -> None:
        self._number, self._record, self._lab = number, record, lab
        self._replay = Replay(record.log, record.start, record.work / f"whole-{number}.img")

    def boot(self, state: State) -> Result:
        log, dice = self._record.log, random.Random(state.seed)
        self._replay.durable(state.position)
        pieces = self._replay.pieces(log.in_flight(state.position))
        share = dice.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        chosen = [piece for piece in pieces if dice.random() < share]
        with self._replay.torn(chosen) as disk:
            return self._boot(state, disk, len(chosen))

    def _boot(self, state: State, disk: Path, arrived: int) -> Result:
        name = f"rebuilt-{self._number}"
        workdir = self._record.work / name
        workdir.mkdir(exist_ok=True)
        (workdir / "OVMF_VARS.fd").unlink(missing_ok=True)
        overlay = workdir / "overlay.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(disk), str(overlay)],
                       check=True)
        node = Overlaid(name, disk=overlay, network=self._lab.network, key=self._lab.key, workdir=workdir)
        if "no firmware" in state.kind:
            node.kernel = self._kernel(disk)
        started = time.monotonic()
        node.start()
        try:
            node.serial.wait("login:", timeout=PATIENCE)
            up = True
        except TimeoutError:
            up = False
        finally:
            node.cut()
        text = node.serial.text()
        slots = SLOT.findall(text)
        return Result(state, up, slots[-1] if slots else "", text.count("Linux version"),
                      round(time.monotonic() - started, 1), arrived, "" if up else text[-6000:])

    def _kernel(self, disk: Path) -> list[str]:
        """What GRUB would start from such a disk: it believes the first table, whatever its sums."""
        with disk.open("rb") as file:
            seen = tablereader.grub(_Disk(file.fileno()))  # type: ignore[arg-type]
        assert seen is not None
        raw = seen[1][0][1]
        first = "-".join(part[::-1].hex() for part in (raw[:4], raw[4:6], raw[6:8]))
        uuid = f"{first}-{raw[8:10].hex()}-{raw[10:].hex()}"
        boot = self._record.directory.parent.parent / "release-1" / "boot"
        return ["-kernel", str(boot / "vmlinuz"), "-initrd", str(boot / "initrd.img"), "-append",
                f"{arguments(Slot.IMAGE, CONSOLE, gpt=True)} k8r.bootpart={uuid}"]


def run(record: Record, states: list[State], lab: Lab, told: Callable[[Result], None]) -> None:
    states.sort(key=lambda state: -state.position)  # each worker's disk goes forwards only
    lock = threading.Lock()

    def work(number: int) -> None:
        worker = Worker(number, record, lab)
        while True:
            with lock:
                if not states:
                    return
                state = states.pop()
            result = worker.boot(state)
            with lock:
                told(result)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for ended in [pool.submit(work, n) for n in range(AT_ONCE)]:
            ended.result()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path)
    parser.add_argument("--states", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--at-most", type=float, default=1e9, metavar="SECONDS", help="begin no boot after that time")
    args = parser.parse_args()
    record, kept = Record(args.record.resolve()), args.record / "boots.jsonl"
    lines = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    done = {line["state"]["number"] for line in lines if line["seed"] == args.seed}
    states = [state for state in choose(record, args.states, args.seed) if state.number not in done]
    end = time.monotonic() + args.at_most

    def told(result: Result) -> None:
        line = {"seed": args.seed, **asdict(result)}
        lines.append(line)
        with kept.open("a") as file:
            file.write(json.dumps(line) + "\n")
        sys.stdout.write(f"{result.state.kind} at {result.state.position} ({result.arrived} arrived): "
                         f"{result.slot or '-'} {'up' if result.up else 'NOT UP'} after {result.boots} boots, "
                         f"{result.seconds:.0f} s\n")
        sys.stdout.flush()
        if time.monotonic() > end:
            states.clear()

    lab = Lab(record.directory.parent.parent, record.work / "lab")
    try:
        lab.start()
        run(record, states, lab, told)
    finally:
        lab.stop()
    hands = sum(not line["up"] for line in lines)
    sys.stdout.write(f"{len(lines)} rebuilt states booted, {len(lines) - hands} came up, needing hands: {hands}\n")
    return 1 if hands else 0


if __name__ == "__main__":
    sys.exit(main())
