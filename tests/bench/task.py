"""Steps of a task on the disk of tests/bench/disk.py, driven by the product's own engine, in a process of their own.

python3 -m tests.bench.task DIRECTORY SOURCE STEP...  prints the peak of the process' memory after each step, as JSON.
Real are the engine, the steps, the bundle and the block devices; boot and state partition are plain directories. A
bus that cannot be reached is warned of, as on a node without one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from k8r_agent.boot.grub import Grub
from k8r_agent.config.settings import Settings
from k8r_agent.effects.bootfacts import Kernel, read_facts
from k8r_agent.effects.bootfiles import MountedBootFiles
from k8r_agent.effects.commands import commands
from k8r_agent.effects.disks import NodeDisks
from k8r_agent.effects.statefiles import StateDirectory
from k8r_agent.engine import Engine, Outcome
from k8r_agent.image.bundle import Bundles
from k8r_agent.model.slots import Slot
from k8r_agent.model.task import Task
from k8r_agent.model.txn import Transaction
from k8r_agent.ports.step import World
from k8r_agent.steps import STEPS
from k8r_agent.store.events import EventLog
from k8r_agent.store.journal import Journal
from k8r_agent.store.slots import SlotStore
from k8r_agent.world import real

LIBRARIES = ("requests", "zstandard", "psutil", "pyudev", "pydbus")  # all that a node's runner may have loaded


class Watch:
    """In the hooks' place: what the process has needed when a step is done. Bytes."""

    def __init__(self) -> None:
        self.peaks: dict[str, int] = {}

    def run(self, task: str, when: str, step: str, facts: Mapping[str, str]) -> tuple[str, ...]:
        self.peaks[f"{when} {step}"] = peak()
        return ()


def peak() -> int:
    """Bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) << 10


def world(directory: Path) -> World:
    facts = directory / "facts"
    slot = read_facts(Kernel(), facts).slot
    files = StateDirectory(directory / "state", mounted=lambda path: True)
    boot = Grub(MountedBootFiles(directory / "firmware", remount=False, lock=directory / "lock"), current=slot)
    signers = sorted(Path("build/keys").glob("*.allowed_signers"))  # of the images that `make images` builds
    return replace(
        real(Settings()), files=files, slots=SlotStore(files), boot=boot,
        disks=NodeDisks(commands(), primary=lambda: boot.state().primary, facts=facts, udev=directory / "no-udev",
                        virtual=True),
        bundles=Bundles(commands(), allow_unsigned=True, allow_legacy=True, signers=signers))


def main() -> None:
    directory, source, steps = Path(sys.argv[1]), sys.argv[2], tuple(sys.argv[3:])
    for name in LIBRARIES:
        __import__(name)
    found, watch = world(directory), Watch()
    watch.peaks["libraries"] = peak()
    task = Task(name="bench", summary="", steps=steps)
    txn = Transaction(id="bench-" + steps[0], task="bench", steps=steps, args={"source": source, "force": "yes"})
    Journal(found.files).save(txn)
    outcome = Engine(world=found, task=task, steps=STEPS, hooks=watch).drive(txn)
    if outcome is not Outcome.DONE:
        failed = [event.message for event in EventLog(found.files).read() if event.kind == "failed"]
        raise SystemExit(f"{outcome}: {failed}")
    assert found.boot.assets(Slot.IMAGE) is not None
    watch.peaks["end"] = peak()
    print(json.dumps(watch.peaks))


if __name__ == "__main__":
    main()
