"""The node as the verbs see it. Each part is made when it is first asked for: `status` must not pay for `update`."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

from k8r_agent.errors import BootError, ConfigError, DiskAmbiguous, K8rError, UsageError
from k8r_agent.model.slots import Slot, SlotState
from k8r_agent.model.txn import Transaction, TxnState

if TYPE_CHECKING:
    from k8r_agent.cluster.proof import Line
    from k8r_agent.config.settings import Settings
    from k8r_agent.model.boot import BootFacts, BootState
    from k8r_agent.ports.blockdev import Disks
    from k8r_agent.ports.bundle import Bundles
    from k8r_agent.ports.statefiles import StateFiles
    from k8r_agent.ports.step import Slots, Step, World
    from k8r_agent.steps.duties import Duty
    from k8r_agent.store.condemned import Condemned
    from k8r_agent.store.events import EventLog
    from k8r_agent.store.journal import Journal
    from k8r_agent.store.lock import Lock
    from k8r_agent.store.queue import Queue
    from k8r_agent.store.tasks import TaskFiles

CHANNEL = "run/k8r/progress.json"
STALE = 30.0  # seconds after which a progress note says nothing about the present


@dataclass(frozen=True)
class Progress:
    """What the runner does now; `done` and `total` in bytes, 0 when there is nothing to count."""

    text: str
    done: int
    total: int


class _Glance:
    """The port Disks for duties.decide(): twins are those that `facts` know, the rest is as it is."""

    def __init__(self, facts: BootFacts, disks: Disks) -> None:
        self._facts, self._disks = facts, disks

    def __getattr__(self, name: str) -> object:
        return getattr(self._disks, name)

    def assert_writable(self) -> None:
        if self._facts.duplicate:
            raise DiskAmbiguous("two disks carry the same IDs", hint="remove one of them and reboot")


class Node:
    """`world` replaces the real one in tests; `root` is where the configuration is looked up."""

    def __init__(self, *, root: Path = Path("/"), world: World | None = None, tasks: TaskFiles | None = None,
                 lock: Lock | None = None, uid: int | None = None) -> None:
        self.root, self._world, self._tasks, self._lock = root, world, tasks, lock
        self.uid = os.geteuid() if uid is None else uid
        self.pid = os.getpid()

    def require_root(self, verb: str) -> None:
        if self.uid != 0:
            raise UsageError(f"{verb} needs root", why="the agent's state, the boot partition and the disk belong to "
                             "root", hint=f"sudo k8r-agent {verb}")

    # configuration

    def settings(self) -> Settings:
        from k8r_agent.config import load

        return load(self.root)

    def lenient(self) -> tuple[Settings, tuple[ConfigError, ...]]:
        from k8r_agent.config import load_lenient

        return load_lenient(self.root)

    # parts

    @cached_property
    def world(self) -> World:
        if self._world is not None:
            return self._world
        from k8r_agent.world import real

        return real(*self.lenient())

    @cached_property
    def files(self) -> StateFiles:
        if self._world is not None:
            return self._world.files
        from k8r_agent.effects.statefiles import StateDirectory

        return StateDirectory()

    @cached_property
    def slots(self) -> Slots:
        from k8r_agent.store.slots import SlotStore

        return SlotStore(self.files)

    @cached_property
    def journal(self) -> Journal:
        from k8r_agent.store.journal import Journal

        return Journal(self.files)

    @cached_property
    def queue(self) -> Queue:
        from k8r_agent.store.queue import Queue

        return Queue(self.files)

    @cached_property
    def events(self) -> EventLog:
        from k8r_agent.store.events import EventLog

        return EventLog(self.files)

    @cached_property
    def lock(self) -> Lock:
        from k8r_agent.store.lock import Lock

        return self._lock or Lock()

    @cached_property
    def steps(self) -> Mapping[str, Step]:
        from k8r_agent.steps import STEPS

        return STEPS

    @cached_property
    def tasks(self) -> TaskFiles:
        from k8r_agent.store.tasks import TaskFiles

        return self._tasks or TaskFiles(self.steps)

    @cached_property
    def bundles(self) -> Bundles:
        return self.world.bundles

    # observations

    def hostname(self) -> str:
        return os.uname().nodename

    def now(self) -> float:
        """To tell how long ago something was."""
        return self._world.machine.now() if self._world else time.time()

    def facts(self) -> BootFacts | None:
        """None on a machine that is no node. A disk with the same IDs may have come since the boot."""
        from dataclasses import replace

        try:
            if self._world:
                return self._world.disks.facts()
            from k8r_agent.effects.bootfacts import Kernel, glance_for_twin, read_facts

            kernel = Kernel()
            facts = read_facts(kernel)
            return replace(facts, duplicate=facts.duplicate or glance_for_twin(kernel, facts.disk))
        except BootError:
            return None

    def boot_state(self) -> BootState:
        return self.world.boot.state()

    def transaction(self) -> Transaction | None:
        return self.journal.load(quarantine=False)

    def newest_release(self) -> int:
        """Of what runs and what is ready in the image slot; what cannot be read does not count."""
        found = [self.world.machine.running_release()]
        try:
            image = self.slots.status(Slot.IMAGE)
            found += [image.release if image.state is SlotState.OK else 0, self.slots.release_floor()]
        except K8rError:
            pass
        return max(found)

    def event_number(self) -> int:
        """Of the latest event."""
        return max((number for number, _ in self.events.numbered()), default=0)

    def position(self) -> str:
        """The step that a running transaction is at, by the event log."""
        txn = self.transaction()
        if txn is None or txn.state is not TxnState.RUNNING:
            return ""
        return next((e.step for e in reversed(self.events.read(txn=txn.id)) if e.step), "")

    def progress(self) -> Progress | None:
        """None when the runner says nothing, or said it too long ago."""
        path = self.root / CHANNEL
        try:
            if time.time() - path.stat().st_mtime > STALE:
                return None
            found = json.loads(path.read_text())
            return Progress(str(found.get("what") or found["text"]), int(found["done"]), int(found["total"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def duty(self, last: Transaction | None, facts: BootFacts) -> Duty:
        """What the runner would do, or not do, by itself now. Twins are those that the initramfs found or udev noted:
        looking at all disks again takes longer than a glance may."""
        from dataclasses import replace

        from k8r_agent.steps.duties import decide

        return decide(replace(self.world, disks=cast("Disks", _Glance(facts, self.world.disks))), last)

    def unit_active(self, unit: str) -> bool:
        """False as well when systemd cannot be asked: then nobody can say that it is."""
        return self._unit_state(unit) == "active"

    def unit_starting(self, unit: str) -> bool:
        """As unit_active(); a unit that only runs once is starting until it is done."""
        return self._unit_state(unit) == "activating"

    def _unit_state(self, unit: str) -> str:
        from k8r_agent.effects.bus import Bus

        try:
            return Bus().unit_state(unit)
        except K8rError:
            return ""

    def stop_unit(self, unit: str) -> None:
        from k8r_agent.effects.bus import Bus

        Bus().stop_unit(unit)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def check_tasks(self) -> tuple[list[str], tuple[ConfigError, ...]]:
        """Names of the good ones, and what is wrong with the others."""
        wrong = self.tasks.check()
        bad = {error.where.rsplit("/", 1)[-1].split(".toml")[0] for error in wrong}
        return [name for name in self.tasks.names() if name not in bad], wrong

    def cluster(self) -> str:
        """The node's place in a cluster, in a line; "" on a system without Kubernetes. Asks nobody else."""
        from k8r_agent.effects import installed

        if not (self._world.cluster.present() if self._world else installed.kubernetes()):
            return ""
        from k8r_agent.steps import membership

        return membership.line(self.world)

    # doing

    def submit(self, task: str, args: Mapping[str, str], requested_by: str) -> str:
        """Returns the request's id, which becomes the transaction's."""
        from k8r_agent.runner import submit

        return submit(self.world, task, args, requested_by=requested_by).id

    def rehearsal(self, task: str, args: Mapping[str, str]) -> World:
        """A world in which a transaction of `task` has begun, and which remembers nothing."""
        from dataclasses import replace

        definition = self.tasks.load(task)
        txn = Transaction(id="dry-run", task=task, steps=definition.steps, args=dict(args))
        return replace(self.world, txn=txn, remember_fact=lambda name, value: txn)

    def bytes_of(self, args: Mapping[str, str]) -> dict[str, int]:
        """How much each step would write. Only what can be known now, from the bundle or the kept index."""
        sizes: dict[str, int] = {}
        if args.get("source"):
            with self.bundles.open(args["source"]) as bundle:
                image = bundle.manifest.artifact("image")
                sizes["write-image"] = sizes["write-working"] = image.unpacked_size if image else 0
                raw = bundle.raw_index()
        else:
            raw = self.slots.kept(self.slots.status(Slot.IMAGE).release, "image.index.json") or b""
        used = _used(raw)
        if used:
            sizes["write-image" if args.get("source") else "write-working"] = used
            sizes["write-working"] = used
        return sizes

    def reinstall_refusals(self, *, force: bool = False) -> tuple[K8rError, ...]:
        """`force` goes on where a line of the proof fails, and takes a release out of quarantine."""
        from k8r_agent.cluster import proof
        from k8r_agent.steps.gates import plan

        args = {"force": "yes"} if force else {}
        found = plan(self.rehearsal("reinstall", args)).refusals
        refused = None if force or found else proof.refusal(self.proof())
        return (*found, refused) if refused else found

    def proof(self) -> tuple[Line, ...]:
        """That the node can come back into its cluster, line by line; () for one that is in none."""
        from k8r_agent.steps.cluster_gates import prove

        return prove(self.world)

    def quarantined(self) -> tuple[Condemned, ...]:
        from k8r_agent.store import condemned

        return condemned.load(self.files)


def _used(index: bytes) -> int:
    """Bytes of the blocks that an image index lists as used; 0 without one."""
    try:
        record = json.loads(index)
        return int(record["block_size"]) * sum(int(count) for _, count in record["used"])
    except (ValueError, KeyError, TypeError):
        return 0
