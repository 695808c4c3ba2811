"""Live power cuts by the dozen: nodes are cut at random moments of a first boot, an update or a reinstall.

Usage: python3 -m tests.lab.campaign BUILD --cuts N --seed S [--loader L] [--only CUT] [--jobs J]

A life takes one node through one task and is cut three times on its way; what was not flushed is lost as the dice say
(powercut.py). Time is counted in lines of the console and operations of the disk, so that a moment is about the same
moment on a faster machine. Cut n of a seed is number n mod 3 of life n div 3: --only repeats that life alone. What was
done is kept in BUILD/campaign/<seed>, and a second call goes on from there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.lab.agent import Agent
from tests.lab.cutreport import Cut, publish
from tests.lab.node import CommandError, Node, rest_after
from tests.lab.past import image_of, settled, wait_complete, waiting
from tests.lab.powercut import Plug
from tests.lab.qmp import QmpError
from tests.lab.site import LOADERS, Lab

PER_LIFE = 3
PATIENCE = 1800.0  # seconds after a power-on until the node must have ended its task
IDLE = 15.0  # seconds that a node which has ended its task waits for a cut
# Lines and operations of a whole task without cuts, about: moments are drawn from it.
LENGTH = {"first-boot": 6000, "update": 3500, "reinstall": 6000}
TASKS = tuple(LENGTH)
EARLY = ("firmware", "kernel", "initramfs", "reboot", "panic")  # milestones of a boot before its systemd


@dataclass(frozen=True)
class Plan:
    """`moments`: ticks after each power-on at which the plug is pulled."""

    number: int
    seed: int
    task: str
    loader: str
    moments: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"life-{self.number:03d}"


def plan(number: int, seed: int, loader: str = "") -> Plan:
    """The further a life is, the less is left of it: later moments are drawn from a shorter time."""
    dice, task = random.Random(f"{seed}/{number}"), TASKS[number % len(TASKS)]
    return Plan(number, seed, task, loader or LOADERS[number // len(TASKS) % len(LOADERS)],
                tuple(int(LENGTH[task] * dice.random() / (1 + index / 2)) for index in range(PER_LIFE)))


class Clock:
    """Ticks since power-on: lines of the console, writes and flushes of the disk, across resets."""

    def __init__(self, node: Node) -> None:
        self._node, self._past, self._last = node, 0, 0

    def now(self) -> int:
        with contextlib.suppress(QmpError, OSError, ValueError):
            operations = self._node.qmp.operations("disk0")
            if operations < self._last:  # a new QEMU after a reset
                self._past += self._last
            self._last = operations
        return len(self._node.serial.lines) + self._past + self._last


class Life:
    """One node on its way through one task. `cuts` grows; Stranded is raised when the node needs hands."""

    def __init__(self, lab: Lab, plan: Plan) -> None:
        self.plan, self._lab = plan, lab
        self.cuts: list[Cut] = []
        self.node = self._make()
        self.agent = Agent(self.node)
        self.plug = Plug(self.node, random.Random(f"{plan.seed}/{plan.number}/disk"))
        self.status: dict[str, Any] = {}

    def _make(self) -> Node:
        name, loader = self.plan.name, self.plan.loader
        if self.plan.task == "first-boot":
            return self._lab.node(name, self._lab.flash(name, loader=loader))
        return (settled if self.plan.task == "update" else waiting)(self._lab, name, loader)

    def tell(self) -> str:
        """Raises Stranded; returns how the task ended."""
        for index, moment in enumerate(self.plan.moments):
            self._until_cut(index, moment)
        self.plug.on()
        end = time.monotonic() + PATIENCE
        asked = time.monotonic()
        while not self._ended():
            if time.monotonic() > end or not self.node.on:
                raise Stranded(f"{self.plan.task} did not end; last on the console:\n{self.node.tail()}")
            time.sleep(rest_after(asked))
            asked = time.monotonic()
        wait_complete(self.node)
        self._ended()
        self._name_places()
        self._judge()
        self.plug.off()
        self._check_disk()
        return str(self.status["transaction"]["state"])

    def _until_cut(self, index: int, moment: int) -> None:
        """The operator goes on looking while the plug waits for its moment, at the latest until nothing happens."""
        self.plug.on()
        clock, pulled, idle = Clock(self.node), threading.Event(), threading.Event()

        def pull() -> None:
            while clock.now() < moment and not idle.wait(0.05):
                pass
            self._cut(index, clock.now())
            pulled.set()

        thread = threading.Thread(target=pull)
        thread.start()
        end = time.monotonic() + PATIENCE
        asked = time.monotonic()
        while not pulled.wait(rest_after(asked)) and not idle.is_set():
            asked = time.monotonic()
            if self._ended() or asked > end:
                pulled.wait(IDLE)
                idle.set()
        thread.join()

    def _cut(self, index: int, ticks: int) -> None:
        milestones = [name for _, name in self.node.serial.milestones]
        stage = milestones[-1] if milestones else "firmware"
        when = time.time()
        loss = self.plug.cut()
        self.cuts.append(Cut(number=self.plan.number * PER_LIFE + index, life=self.plan.number, task=self.plan.task,
                             loader=self.plan.loader, ticks=ticks, time=when, place=stage if stage in EARLY else "",
                             entries=loss.entries, in_flight=loss.in_flight, arrived=loss.arrived))

    def _ended(self) -> bool:
        """Asks for the task when nobody has done so yet."""
        try:
            self.status = self.agent.status()
            txn = self.status["transaction"] or {}
            if txn.get("task") == self.plan.task:
                return bool(txn["state"] != "running") and not self.status["queue"]
            if self.plan.task != "first-boot" and not self.status["queue"] and txn.get("state") != "running":
                verb = f"update {self._lab.url(2)}" if self.plan.task == "update" else "reinstall --yes"
                self.node.ssh(f"k8r-agent {verb} --no-wait", timeout=60)
        except CommandError:
            pass
        return False

    def _name_places(self) -> None:
        """A cut after the kernel's start was in the step that was open then, as the event log has it."""
        events = [event for event in self.agent.events() if event["task"] == self.plan.task]
        for at, cut in enumerate(self.cuts):
            if not cut.place:
                before = [event for event in events if event["time"] <= cut.time and event["step"]]
                last = before[-1] if before else None
                place = "idle" if last is None else last["step"] if last["kind"] == "started" else \
                    f"after {last['step']}"
                self.cuts[at] = cut.at(place)

    def _judge(self) -> None:
        status, boot = self.status, self.status["boot"]
        slots = {name: (slot["release"], slot["state"]) for name, slot in status["slots"].items()}
        wanted = {"first-boot": ((1, "ok"), (1, "ok")), "update": ((1, "ok"), (2, "ok")),
                  "reinstall": ((2, "ok"), (2, "ok"))}[self.plan.task]
        if status["transaction"]["state"] == "done":
            if (slots["working"], slots["image"]) != wanted or status["current"] != "working":
                raise Stranded(f"done, but not so: {slots}, running from {status['current']}")
        elif not status["transaction"]["note"] or slots[status["current"]][1] != "ok":
            raise Stranded(f"{status['transaction']}; {slots}")
        if boot["primary"] != status["current"] or boot["armed"]:
            raise Stranded(f"it runs from {status['current']}, but {boot}")

    def _check_disk(self) -> None:
        """File systems as a shutdown should leave them, and the image slot as it was signed."""
        disk, release = self.node.disk, self.status["slots"]["image"]["release"]
        for number in (3, 4):
            at = f"{disk.path}?offset={disk.partitions()[number].start}"
            done = subprocess.run(["/sbin/e2fsck", "-fn", at], capture_output=True, text=True)
            if done.returncode:
                raise Stranded(f"partition {number} is damaged: {done.stdout[-500:]}")
        size, digest = image_of(self._lab, release)
        if disk.digest(2, length=size) != digest:
            raise Stranded(f"the image slot is not release {release}")


class Stranded(Exception):
    """A person would have to do something."""


def tell(build: Path, home: Path, plan: Plan) -> list[Cut]:
    lab = Lab(build, home / "lab" / plan.name)
    life: Life | None = None
    try:
        life = Life(lab.start(), plan)
        ended = life.tell()
        return [cut.ended("finished" if ended == "done" else "stayed", life.status["transaction"]["note"])
                for cut in life.cuts]
    except Exception as error:
        for node in lab.nodes:
            node.collect(home / "logs" / plan.name)
        (home / "logs" / plan.name / "trace.txt").write_text(traceback.format_exc())
        return [cut.ended("needs hands", f"{type(error).__name__}: {error}") for cut in life.cuts] if life else []
    finally:
        lab.stop()
        shutil.rmtree(lab.workdir, ignore_errors=True)


class Campaign:
    """The record is one JSON file for each life."""

    def __init__(self, build: Path, seed: int) -> None:
        self.build, self.seed, self.home = build, seed, build / "campaign" / str(seed)
        self.lives = self.home / "lives"
        self.lives.mkdir(parents=True, exist_ok=True)

    def cuts(self) -> list[Cut]:
        found = [Cut(**record) for path in self.lives.glob("*.json") for record in json.loads(path.read_text())]
        return sorted(found, key=lambda cut: cut.number)

    def run(self, numbers: Iterator[int], jobs: int, loader: str) -> None:
        def one(number: int) -> None:
            life = plan(number, self.seed, loader)
            started, cuts = time.monotonic(), tell(self.build, self.home, life)
            if cuts:
                (self.lives / f"{number:03d}.json").write_text(json.dumps([asdict(cut) for cut in cuts]))
            sys.stdout.write(f"{life.name} {life.task} {life.loader} {time.monotonic() - started:.0f} s: " + ", ".join(
                f"cut {cut.number} in {cut.place or '?'} {cut.outcome}" for cut in cuts) + "\n")
            sys.stdout.flush()
            publish(self.cuts(), self.home)

        with ThreadPoolExecutor(jobs, thread_name_prefix="life") as pool:
            list(pool.map(one, numbers))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("build", type=Path)
    parser.add_argument("--cuts", type=int, default=6)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="repeat the life of this cut")
    parser.add_argument("--loader", default="", choices=("", *LOADERS))
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    campaign = Campaign(args.build.resolve(), args.seed)
    done = {cut.life for cut in campaign.cuts()}
    wanted = [args.only // PER_LIFE] if args.only is not None else [
        number for number in range(-(-args.cuts // PER_LIFE)) if number not in done]
    campaign.run(iter(wanted), args.jobs, args.loader)
    text = publish(campaign.cuts(), campaign.home)
    sys.stdout.write(text)
    return 1 if any(cut.outcome == "needs hands" for cut in campaign.cuts()) else 0


if __name__ == "__main__":
    sys.exit(main())
