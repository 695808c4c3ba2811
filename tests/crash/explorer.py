"""Every crash, explored as a graph.

A run goes on from a state of the node without a crash until it is at rest. At each point that it passes, what a
crash would leave there is taken as a new state: power cut (what was not durable lost, kept, or half of each) or the
agent killed. Each state that was not met before is run in turn, up to a number of crashes. Two states that differ
only in times, in the event log or in the names of boots are the same.
"""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from k8r_agent.engine import Outcome
from k8r_agent.errors import K8rError
from k8r_agent.model import superblock
from k8r_agent.model.slots import Slot
from k8r_agent.ports.bootfiles import SECTOR
from tests.fakes.world import NUMBERS, FakeNode, Violation

SESSIONS = 60  # boots and restarts of the agent after which a run counts as endless
_NUMBER = re.compile(rb'"(?:time|started|ended)": [0-9.]+')
_BOOT = re.compile(rb"00000000-0000-4000-8000-(\d{12})")
_ID = re.compile(rb"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{4}")
_FORGOTTEN = ("events", "quarantine")


@dataclass
class Figures:
    """What was explored. `points` are those that the run without any crash passes, `states` the distinct ones that
    were found where all were gone into, `runs` all that were run to their end."""

    points: int = 0
    states: int = 0
    runs: int = 0
    boots: int = 0
    ended: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        ended = ", ".join(f"{n} {how}" for how, n in sorted(self.ended.items()))
        return f"{self.points} points, {self.states} states, {self.runs} runs, {self.boots} boots: {ended}"


Judge = Callable[[FakeNode, int], str]
Place = tuple[int, str]  # number of the point in its run, kind of crash


@dataclass
class Explorer:
    """`judge(node, crashes)` looks at a node at rest, says how it ended and raises AssertionError when that is wrong.
    `samples`: for each crash, how many of the new states that a run passes are gone into, on average and at random;
    0: all of them. Its length is the number of crashes."""

    judge: Judge
    samples: tuple[float, ...]
    kills: bool = True
    figures: Figures = field(default_factory=Figures)
    seen: dict[object, int] = field(default_factory=dict)

    def explore(self, start: FakeNode) -> Figures:
        self._explore(start, len(self.samples), ())
        return self.figures

    def _explore(self, node: FakeNode, left: int, path: tuple[str, ...]) -> None:
        sample = self.samples[-left] if left else 0.0
        chosen: frozenset[Place] | None = None
        if sample:  # a rehearsal finds the places, so that only the chosen states are copied
            rehearsal = _Run(self, path, places=[])
            rehearsal.go(copy.deepcopy(node))
            chosen = self._chosen(rehearsal.places, sample)
        run = _Run(self, path, left=left, chosen=chosen)
        self.figures.runs += 1
        try:
            how = run.go(node)
        except (AssertionError, K8rError, Violation) as error:
            raise Violation(f"after crashes at {' → '.join(path) or 'no point'}: {error}") from error
        self.figures.ended[how] = self.figures.ended.get(how, 0) + 1
        if not path:
            self.figures.points = run.points
        for name, crashed in run.found:
            self._explore(crashed, left - 1, (*path, name))

    def _chosen(self, places: list[Place], sample: float) -> frozenset[Place]:
        dice = random.Random(self.figures.runs)
        number = int(sample) + (dice.random() < sample % 1)
        return frozenset(dice.sample(places, min(number, len(places))))

    def is_new(self, state: object, left: int) -> bool:
        """Not met before with as many crashes left."""
        known = self.seen.get(state)
        if known is None:
            self.figures.states += 1
        if known is not None and known >= left:
            return False
        self.seen[state] = left
        return True


class _Run:
    """`places` collects where it could crash. `chosen`: where states are taken (None: wherever a new one is met)."""

    def __init__(self, explorer: Explorer, path: tuple[str, ...], *, left: int = 0,
                 places: list[Place] | None = None, chosen: frozenset[Place] | None = None) -> None:
        self._explorer, self._left, self._path = explorer, left, path
        self.places, self._rehearsal, self._chosen = places or [], places is not None, chosen
        self.found: list[tuple[str, FakeNode]] = []
        self.points = 0
        self._primary: Slot | None = None

    def go(self, node: FakeNode) -> str:
        node.watch = self._watch
        self._primary = node.loader.decided()
        at_rest = False
        for _ in range(SESSIONS):
            if node.running is None:
                node.lost_boots()
                node.power_on()
                self._explorer.figures.boots += not self._rehearsal
            outcome = node.session()
            if outcome is Outcome.REBOOTING:
                node.shut_down()
                at_rest = False
            elif at_rest:
                node.watch = None
                return self._explorer.judge(node, len(self._path))
            else:  # at rest for good only when another power cycle changes nothing
                at_rest = True
                node.shut_down()
        raise Violation(f"not at rest after {SESSIONS} boots")

    def _watch(self, node: FakeNode, name: str) -> None:
        self.points += 1
        self._primary = invariants(node, name, self._primary)
        if not self._left and not self._rehearsal:
            return
        for kind, crash in _crashes(node, kills=self._explorer.kills):
            if self._rehearsal:
                self.places.append((self.points, kind))
            elif self._wanted(node, kind):
                self.found.append((f"{name}[{kind}]", self._crashed(node, crash)))

    def _wanted(self, node: FakeNode, kind: str) -> bool:
        if self._chosen is not None:
            return (self.points, kind) in self._chosen
        return self._explorer.is_new(crash_key(node, kind), self._left - 1)

    def _crashed(self, node: FakeNode, crash: Callable[[FakeNode], None]) -> FakeNode:
        watch, node.watch = node.watch, None
        other = copy.deepcopy(node)
        node.watch = watch
        crash(other)
        return other

def invariants(node: FakeNode, name: str, primary: Slot | None) -> Slot:
    """What must hold at each point. `primary`: the one before; returns the one now."""
    now = node.loader.decided()
    if now is not primary and node.running is not now:
        raise Violation(f"{now} became the primary while {node.running} runs ({name})")
    for slot, number in NUMBERS.items():
        if name == f"disk:p{number}:write" and slot in (node.running, now):
            raise Violation(f"the {slot} slot is written while {node.running} runs and {now} is the primary")
    if wrong := node.cluster.violated():
        raise Violation(f"{wrong} ({name})")
    if name == "mkfs:before" and node.state.marker() is not None:
        raise Violation("the state partition is formatted a second time")
    return now


def _crashes(node: FakeNode, *, kills: bool) -> Iterator[tuple[str, Callable[[FakeNode], None]]]:
    yield "cut", lambda n: n.power_cut()
    if node.disks.medium.pending or node.loader.pending() or node.cluster.pending():
        yield "cut late", lambda n: n.power_cut(keep=1.0, reached=lambda sector: True)
        yield "cut odd", lambda n: n.power_cut(keep=0.5, reached=lambda sector: sector // 8 % 2 == 1)
        yield "cut even", lambda n: n.power_cut(keep=-0.5, reached=lambda sector: sector // 8 % 2 == 0)
    if kills:
        yield "kill", lambda n: n.kill()


def crash_key(node: FakeNode, kind: str) -> object:
    """What distinguishes the states that crashes leave. Everything durable and, unless a power cut takes it, what is
    in memory."""
    pending = node.disks.medium.pending
    parts: list[object] = [kind if pending or node.loader.pending() or node.cluster.pending() else kind == "kill",
                           frozenset(pending.items()) if kind != "cut" else None,
                           _disk(node), node.loader.key(), node.soiled, node.boots % node.behaviour.period()]
    live = kind == "kill"
    parts.append(node.cluster.key(live=live))
    texts: list[bytes] = []
    for life, files in node.state.mounts.contents.items():
        texts += [life, *_texts(files)]
    if live or not node.files.on_partition:
        parts.append((node.running, node.files.on_partition, frozenset(node.disks.mounted),
                      node.state.mounts.staged is not None) if live else None)
    if live:
        texts += _texts(node.files.live)
    joined = b"\n".join(texts)
    now = node.machine.boot_id().encode() if live else b"-"
    joined = _NUMBER.sub(b"", joined)
    joined = _BOOT.sub(lambda found: b"NOW" if found[0] == now else b"THEN", joined)
    names: dict[bytes, bytes] = {}
    joined = _ID.sub(lambda found: names.setdefault(found[0], b"ID%d" % len(names)), joined)
    parts.append(joined)
    return tuple(parts)


def _texts(files: dict[str, bytes]) -> Iterator[bytes]:
    for name in sorted(files):
        if not name.startswith(_FORGOTTEN):
            yield name.encode()
            yield files[name]


def _disk(node: FakeNode) -> object:
    """Without the superblocks of mounted file systems: they count mounts."""
    counted: set[int] = set()
    for number, (start, _) in node.disks.kernel.items():
        first = (start + superblock.OFFSET) // SECTOR
        if number != NUMBERS[Slot.IMAGE]:
            counted.update(range(first, first + superblock.LENGTH // SECTOR))
    durable = node.disks.medium.durable
    found = [superblock.parse(node.disks.superblock(n)) for n in sorted(node.disks.kernel)]
    known = tuple((s.uuid, s.label, s.size) if s else None for s in found)
    return known, frozenset(item for item in durable.items() if item[0] not in counted)
