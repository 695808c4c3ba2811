"""A life of a campaign: one node on its way through one task, cut at random moments until the task has ended.

Time is counted in ticks since power-on, lines of the console and operations of the disk, so that a moment is about the
same moment on a faster machine.
"""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab.agent import Agent
from tests.lab.cutreport import AT_REST, Cut, place_of
from tests.lab.disks import Span
from tests.lab.node import CommandError, Node, failure, rest_after
from tests.lab.past import BOOT, QUICK, image_of, settled, wait_complete, waiting
from tests.lab.powercut import Plug
from tests.lab.qmp import QmpError
from tests.lab.site import LOADERS, Lab
from tests.lab.writelog import copy_spans

PER_LIFE = 3  # at most
FAILING = 3  # cuts: each step and the working slot have three tries, and the crash matrix knows no failure after two
PATIENCE = 1800.0  # seconds after a power-on until the node must be at rest
IDLE = 15.0  # seconds, at most, that a node at rest waits for a cut
# Ticks until a task can go on after a power-on, and those that it then makes, about.
TO_BOOT = {"first-boot": 620, "update": 800, "reinstall": 800}
TO_WORK = {"first-boot": 2200, "update": 400, "reinstall": 2700}
TASKS = tuple(TO_WORK)
BOOTS = 0.3  # share of the cuts that are meant for a boot
EARLY = ("firmware", "loader", "kernel", "initramfs", "reboot", "panic")  # milestones of a boot before its systemd
WANTED = {"first-boot": ((1, "ok"), (1, "ok")), "update": ((1, "ok"), (2, "ok")), "reinstall": ((2, "ok"), (2, "ok"))}


class Stranded(Exception):
    """A person would have to do something."""


class Broken(Exception):
    """The lab's own fault: it says nothing about the node."""


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
    dice, task = random.Random(f"{seed}/{number}"), TASKS[number % len(TASKS)]
    return Plan(number, seed, task, loader or LOADERS[number // len(TASKS) % len(LOADERS)],
                tuple(_moment(dice, task, index) for index in range(PER_LIFE)))


def _moment(dice: random.Random, task: str, index: int) -> int:
    """The further a life is, the less is left of it: later moments are drawn from a shorter time."""
    boots, share = dice.random() < BOOTS, dice.random()
    return int(TO_BOOT[task] * share if boots else TO_BOOT[task] + TO_WORK[task] * share / (1 + index / 2))


class Clock:
    """Ticks since power-on, across resets."""

    def __init__(self, node: Node) -> None:
        self._node, self._past, self._last = node, 0, 0

    def now(self) -> int:
        with contextlib.suppress(QmpError, OSError, ValueError):
            operations = self._node.qmp.operations("disk0")
            if operations < self._last:  # a new QEMU after a reset
                self._past += self._last
            self._last = operations
        return len(self._node.serial.lines) + self._past + self._last


def at_rest(status: Mapping[str, Any]) -> bool:
    """Nothing is going on, and the node will not reboot by itself: it may be in the image slot because three cuts used
    up the tries of the working slot, from where it goes back."""
    txn, boot = status["transaction"] or {}, status["boot"] or {}
    return (txn.get("state") != "running" and not status["queue"] and bool(boot)
            and boot["primary"] == status["current"] and not boot["armed"])


def judge(status: Mapping[str, Any], task: str, cuts: int) -> str:
    """How the task of a node at rest ended, with so many cuts on its way. Raises Stranded when that is no good end."""
    txn, boot, current = status["transaction"], status["boot"], status["current"]
    slots = {name: (slot["release"], slot["state"]) for name, slot in status["slots"].items()}
    if boot["primary"] != current or boot["armed"]:
        raise Stranded(f"it runs from {current}, but {boot}")
    if txn["state"] == "done":
        if (slots["working"], slots["image"]) != WANTED[task] or current != "working":
            raise Stranded(f"done, but not so: {slots}, running from {current}")
    elif not txn["note"] or slots[current][1] != "ok":
        raise Stranded(f"{txn}; {slots}")
    elif cuts < FAILING:
        raise Stranded(f"{txn['state']} after {cuts} cuts, though nothing fails before {FAILING}: {txn['note']}")
    return str(txn["state"])


def cut_at(moment: int, *, ticks: Callable[[], int], cut: Callable[[int, bool], None], rests: Callable[[], bool],
           trouble: Callable[[], Exception | None], idle: float, patience: float = PATIENCE,
           pause: Callable[[float], float] = rest_after) -> None:
    """Two that do not wait for each other: whoever pulls the plug once so many `ticks` have gone by, and the operator
    who goes on asking whether the node `rests`; then it is cut after `idle` seconds. `cut` is told the ticks, and
    whether the node was at rest. Raises what any of them raises or `trouble` returns, and Stranded when `patience` is
    over."""
    resting, left, pulling = threading.Event(), threading.Event(), threading.Event()

    def pull() -> None:
        while (now := ticks()) < moment and not resting.is_set():
            if left.wait(0.1):
                return
        if now < moment and left.wait(idle):
            return
        pulling.set()
        cut(now, now < moment)

    with ThreadPoolExecutor(1, thread_name_prefix="plug") as pool:
        pulled, end, asked = pool.submit(pull), time.monotonic() + patience, time.monotonic()
        try:
            while not wait([pulled], timeout=pause(asked)).done:
                asked = time.monotonic()
                if resting.is_set() or pulling.is_set():
                    continue
                if rests():
                    resting.set()
                    continue
                late = Stranded(f"it did not come to rest within {patience:g} s") if asked > end else None
                if (met := trouble() or late) and not pulling.is_set():  # asked in this order: a cut node is off too
                    raise met
        finally:
            left.set()
        pulled.result()


class Life:
    """`cuts` grows. `refused`: why the task could not be asked for, the last time. `mended`: what the check of the
    disk at the end had to repair."""

    def __init__(self, lab: Lab, plan: Plan) -> None:
        self.plan, self._lab = plan, lab
        self.cuts: list[Cut] = []
        self.node = self._make()
        self.agent = Agent(self.node)
        self._dice = random.Random(f"{plan.seed}/{plan.number}/disk")
        self.plug = Plug(self.node, self._dice)
        self.status: dict[str, Any] = {}
        self.mended = self.refused = ""
        self._asked = False

    def _make(self) -> Node:
        name, loader = self.plan.name, self.plan.loader
        if self.plan.task == "first-boot":
            return self._lab.node(name, self._lab.flash(name, loader=loader, more=QUICK))
        return (settled if self.plan.task == "update" else waiting)(self._lab, name, loader, more=QUICK)

    def tell(self) -> str:
        """How the task ended. Raises Stranded and TimeoutError when the node needs hands."""
        for index, moment in enumerate(self.plan.moments):
            self._until_cut(index, moment)
            if self.cuts[-1].at_rest:
                break  # there is nothing left of the task that could be cut
        self.plug.on()
        self._until_rest()
        self.node.wait_until(lambda _: self._name_places(), "events", timeout=BOOT)
        ended = judge(self.status, self.plan.task, sum(not cut.at_rest for cut in self.cuts))
        self.plug.off()
        self._check_disk()
        return ended

    def _until_cut(self, index: int, moment: int) -> None:
        began = time.time()
        self.plug.on()
        cut_at(moment, ticks=Clock(self.node).now, rests=self._rests, trouble=self._trouble, pause=self._pause,
               cut=lambda ticks, idle: self._cut(index, ticks, began, idle), idle=self._dice.uniform(0, IDLE))

    def _until_rest(self) -> None:
        end, asked = time.monotonic() + PATIENCE, time.monotonic()
        while not self._rests():
            if met := self._trouble():
                raise met
            if asked > end:
                raise Stranded(f"it did not come to rest within {PATIENCE:g} s")
            time.sleep(self._pause(asked))
            asked = time.monotonic()
        wait_complete(self.node)
        self.node.wait_until(lambda _: self._rests(), "at rest", timeout=BOOT)

    def _pause(self, asked: float) -> float:
        """Once the task goes on, questions only make it slower."""
        return rest_after(asked, every=15.0, rest=4.0) if self._asked else rest_after(asked, every=4.0)

    def _trouble(self) -> Exception | None:
        """A node that is off, though nobody pulled its plug."""
        if self.node.on:
            return None
        if failed := failure(self.node):
            return Broken(failed)
        return Stranded(f"the node switched itself off; last on the console:\n{self.node.tail()}")

    def _cut(self, index: int, ticks: int, began: float, idle: bool) -> None:
        if met := self._trouble():
            raise met
        milestones = [name for _, name in self.node.serial.milestones]
        stage = milestones[-1] if milestones else "firmware"
        when = time.time()
        loss = self.plug.cut()
        cut = Cut(number=self.plan.number * PER_LIFE + index, life=self.plan.number, task=self.plan.task,
                  loader=self.plan.loader, ticks=ticks, began=began, time=when, entries=loss.entries,
                  place=AT_REST if idle else stage if stage in EARLY else "", in_flight=loss.in_flight,
                  arrived=loss.arrived)
        self.cuts.append(cut)
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {self.plan.name}: cut {cut.number} after {when - began:.0f} s "
                         f"and {ticks} ticks, {cut.place or stage}; {loss.arrived} of {loss.in_flight} sectors "
                         "arrived\n")

    def _rests(self) -> bool:
        """Asks for the task when nobody has done so yet."""
        try:
            status = self.agent.status()
        except CommandError:
            return False
        self.status, begun = status, (status["transaction"] or {}).get("task") == self.plan.task
        self._asked = self._asked or begun
        if not begun and at_rest(status) and status["current"] == "working":  # elsewhere it would be another task
            self._ask()
        return begun and at_rest(status)

    def _ask(self) -> None:
        if self.plan.task == "first-boot":  # the node's own
            return
        verb = f"update {self._lab.url(2)}" if self.plan.task == "update" else "reinstall --yes"
        try:
            self.node.ssh(f"k8r-agent {verb} --no-wait", timeout=60)
            self._asked, self.refused = True, ""
        except CommandError as error:
            self.refused = str(error)

    def _name_places(self) -> bool:
        events = self.agent.events()
        self.cuts = [cut if cut.place else cut.at(place_of(cut, events)) for cut in self.cuts]
        return True

    def _check_disk(self) -> None:
        """File systems that the node's own `e2fsck -p` can take, and the image slot as it was signed. A slot that is
        known to be half written is no file system."""
        disk, slots = self.node.disk, self.status["slots"]
        spans = disk.partitions()
        for number in (3, 4):
            if number == 3 and self.status["current"] != "working" and slots["working"]["state"] != "ok":
                continue
            done = check(disk.path, spans[number], self.node.workdir / f"partition-{number}.img")
            if done.returncode > 1:
                raise Stranded(f"partition {number} is damaged: {(done.stdout + done.stderr)[-500:]}")
            if done.returncode:
                self.mended += f"partition {number}: {done.stdout[-300:]}"
        if slots["image"]["state"] == "ok":
            release = slots["image"]["release"]
            size, digest = image_of(self._lab, release)
            if disk.digest(2, length=size) != digest:
                raise Stranded(f"the image slot is not release {release}")


def check(disk: Path, span: Span, copy: Path) -> subprocess.CompletedProcess[str]:
    """What `e2fsck -p` makes of that partition; of a copy, since it forgets "?offset=" once it replayed a journal."""
    copy_spans(disk, copy, ((span.start, span.size),), span.start)
    done = _fsck(copy)
    if done.returncode == 8:  # torn, and nobody has mounted it since: the initramfs would take the copy
        done = _fsck(copy, "-b", "32768", "-B", "4096")
    copy.unlink()
    return done


def _fsck(partition: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["/sbin/e2fsck", "-fp", *options, str(partition)], capture_output=True, text=True,
                          errors="replace", stdin=subprocess.DEVNULL)
