"""Queue → lock → engine → notify: goes on with what was interrupted, then with what is asked for, then is gone.

Two never run at once (the lock). Being told to stop ends it between two pieces of work; being killed, at any
instant: the next start goes on from what the world shows.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from k8r_agent import __version__
from k8r_agent.engine import Engine, Outcome
from k8r_agent.errors import K8rError, NoState, StateError, UsageError
from k8r_agent.model.slots import Slot
from k8r_agent.model.task import Task
from k8r_agent.model.txn import Event, Request, Transaction, TxnState
from k8r_agent.ports.commands import Commands
from k8r_agent.ports.step import Step, World
from k8r_agent.steps import STEPS, by_hand, duties
from k8r_agent.steps.duties import Action, Duty
from k8r_agent.steps.position import typed
from k8r_agent.store.events import EventLog
from k8r_agent.store.hooks import Hooks
from k8r_agent.store.journal import Journal
from k8r_agent.store.lock import Held, Lock
from k8r_agent.store.queue import Queue, new_id
from k8r_agent.store.tasks import TaskFiles

_VOLATILE_TASKS = ("first-boot",)  # may run without a state partition: they make it

log = logging.getLogger(__name__)


class Runner:
    """`stop` is asked between all pieces of work; `allow` is told how many seconds the next one may take. `patience`:
    seconds for which another holder of the lock is waited for."""

    def __init__(self, world: World, *, tasks: TaskFiles | None = None, steps: Mapping[str, Step] = STEPS,
                 lock: Lock | None = None, hooks: Hooks | None = None,
                 sleep: Callable[[float], None] = time.sleep, stop: Callable[[], bool] = lambda: False,
                 allow: Callable[[float], None] = lambda seconds: None, patience: float = 0.0) -> None:
        self.world, self._steps, self._patience = world, steps, patience
        self._tasks = tasks or TaskFiles(steps)
        self._lock, self._hooks = lock or Lock(), hooks or Hooks(_commands)
        self._sleep, self._stop, self._allow = sleep, stop, allow
        self._held: Held
        self.journal, self.queue, self.events = Journal(world.files), Queue(world.files), EventLog(world.files)

    def run(self) -> Outcome | None:
        """Until there is nothing to do (returns the last outcome, None if there was none), a reboot is under way,
        or it is told to stop. Raises Busy when another runner works."""
        with self._lock.hold(f"k8r-agent runner (pid {os.getpid()})", wait=self._patience) as self._held:
            self.world.settle()
            self._mend()
            last: Outcome | None = None
            while not self._stop():
                outcome = self._turn()
                if outcome is None:
                    return last
                if outcome in (Outcome.REBOOTING, Outcome.STOPPED):
                    return outcome
                last = outcome
            return Outcome.STOPPED

    def _turn(self) -> Outcome | None:
        """One piece of work. None: there is none."""
        txn = self._load()
        if txn is not None and txn.state is TxnState.RUNNING:
            return self._drive(txn)
        for request in self.queue.requests(self._complain):
            if txn is not None and request.id == txn.id:
                self.queue.remove(request.id)  # accepted before a power cut, and ended since
                continue
            return self._accept(request)
        return self._duty(txn)

    def _load(self) -> Transaction | None:
        """A damaged journal was set aside: said once, then the node goes by what it sees."""
        try:
            return self.journal.load()
        except StateError as error:
            if self.world.files.read("transaction.json") is not None:
                raise
            self._note("", "", f"{error}; {error.hint}", kind="failed")
            return None

    def _mend(self) -> None:
        try:
            for said in self.world.slots.mend():
                self._note("", "", said, kind="failed")
        except StateError as error:
            self._note("", "", str(error), kind="failed")

    # requests

    def _accept(self, request: Request) -> Outcome:
        try:
            task = self._tasks.load(request.task)
            unknown = sorted(set(request.args) - set(task.args))
            if unknown:
                raise UsageError(f"{task.name} takes no argument {unknown[0]!r}",
                                 hint=f"it takes: {', '.join(task.args) or 'none'}")
            if request.task not in _VOLATILE_TASKS and not self.world.files.persistent():
                raise NoState(f"{request.task} is not started", why="there is no state partition to remember it on",
                              hint="`k8r-agent status` says why")
        except K8rError as error:
            return self._decline(request, error)
        if request.task != "update":  # which a timer asks for too
            duties.operator_spoke(self.world.files)
        txn = self._begin(request, task)
        self.queue.remove(request.id)
        return self._drive(txn)

    def _decline(self, request: Request, error: K8rError) -> Outcome:
        """Journalled like a failed transaction, so that whoever waits for this id learns it."""
        now = self.world.machine.now()
        self.journal.save(Transaction(
            id=request.id, task=request.task, steps=(), args=request.args, state=TxnState.FAILED, note=str(error),
            facts={"error": error.code, "why": error.why, "hint": error.hint}, agent=__version__,
            started=now, ended=now))
        self.queue.remove(request.id)
        self._note(request.id, request.task, f"{error}; {error.hint}" if error.hint else str(error), kind="failed")
        return Outcome.FAILED

    def _begin(self, request: Request, task: Task) -> Transaction:
        txn = self.journal.save(Transaction(
            id=request.id, task=request.task, steps=task.steps, args=request.args, agent=__version__,
            definition=task, started=self.world.machine.now()))
        self.journal.drop_cancel()
        self._note(txn.id, txn.task, f"asked for by {request.requested_by or 'nobody in particular'}", kind="started")
        return txn

    def _drive(self, txn: Transaction) -> Outcome:
        task = self._tasks.resume(txn)
        self.world.report.status(f"{txn.task}: {task.summary}")
        engine = Engine(world=self.world, task=task, steps=self._steps, hooks=self._hooks, sleep=self._sleep,
                        stop=self._stop, allow=self._allow)
        outcome = engine.drive(txn)
        ended = self.world.txn or txn
        self.world.report.status(f"{txn.task}: {outcome.value} {ended.note}".rstrip())
        return outcome

    def _complain(self, name: str, why: str) -> None:
        self._note("", "", f"request {name} was set aside: {why}", kind="failed")

    # duties

    def _duty(self, last: Transaction | None) -> Outcome | None:
        duty = Duty(why="looking at what is to be done")
        try:
            duty = duties.decide(self.world, last)
            self.world.report.status(duty.why or "idle")
            self._settle_counters()
            by_hand.note(self.world)
            return self._do(duty)
        except StateError:
            raise  # what cannot be counted is not done, and the log cannot tell it
        except Exception as error:  # nobody asked for it, so nobody waits for an answer but the log
            self._note("", duty.task, f"{duty.why or 'idle'}, but {typed(duty.task or 'the runner', error)}",
                       kind="failed")
            return None

    def _do(self, duty: Duty) -> Outcome | None:
        if duty.action is Action.DISARM:
            self.world.boot.disarm()
            self._note("", "", f"{duty.why}: disarmed")
            return None
        if duty.action is Action.UNCORDON:
            from k8r_agent.steps.drain import Uncordon

            Uncordon(limit=0.0).apply(self.world)
            self._note("", "", f"{duty.why}: uncordoned")
            return None
        if duty.action is Action.START:
            return self._start(duty)
        if duty.action is Action.RETURN:
            return self._return(duty)
        return None

    def _start(self, duty: Duty) -> Outcome | None:
        now = self.world.machine.now()
        request = Request(id=new_id(now), task=duty.task, args=duty.args, requested_by="the node itself", time=now)
        task = self._tasks.load(duty.task)
        if duty.task == "reinstall":
            duties.count_automatic(self.world.files, self.world.slots.status(Slot.IMAGE).digest)
        txn = self._begin(request, task)
        self._note(txn.id, txn.task, duty.why)
        return self._drive(txn)

    def _return(self, duty: Duty) -> Outcome | None:
        """Reboot to the primary, unless somebody asks for something else during the grace time, in which the lock is
        free for whoever confirms or reboots."""
        waited, grace = 0.0, self.world.settings.boot.grace
        self._note("", "", f"{duty.why}; rebooting in {grace:.0f} s")
        while waited < grace:
            if self._stop():
                return Outcome.STOPPED
            if self.queue.pending():
                return self._turn()
            if duties.decide(self.world, self._load()).action is not Action.RETURN:
                return self._turn()
            with self._held.lent():
                self._sleep(min(5.0, grace - waited))
            waited += 5.0
        state = self.world.boot.state()
        if state.primary is Slot.WORKING and state.tries_left == 0:
            duties.count_chance(self.world.files)
            self.world.boot.try_once(Slot.WORKING)  # the loader does not go there by itself any more
        else:
            duties.count_return(self.world.files)
            self.world.boot.disarm()
        self.world.machine.reboot()
        return Outcome.REBOOTING

    def _settle_counters(self) -> None:
        state = self.world.boot.state()
        if state.current is state.primary:
            duties.primary_runs(self.world.files)

    def _note(self, txn: str, task: str, message: str, *, kind: str = "note") -> None:
        try:
            slot = str(self.world.boot.state().current or "")
        except Exception:
            slot = ""
        log.info("%s%s", f"{task}: " if task else "", message)
        self.events.append(Event(time=self.world.machine.now(), txn=txn, task=task, step="", kind=kind,
                                 message=message, slot=slot, boot_id=self.world.machine.boot_id()))


def _commands() -> Commands:
    from k8r_agent.effects.commands import commands

    return commands()


def submit(world: World, task: str, args: Mapping[str, str], *, requested_by: str) -> Request:
    """Queue a request, durably. Whether it can run is decided by the runner; raises UsageError for what is no
    request at all."""
    now = world.machine.now()
    request = Request(id=new_id(now), task=task, args=dict(args), requested_by=requested_by, time=now)
    Queue(world.files).put(request)
    return request


def retry(world: World, *, requested_by: str) -> Request:
    """Ask for the last transaction again. Raises UsageError when there is none that failed."""
    last = Journal(world.files).load(quarantine=False)
    if last is None or last.state in (TxnState.RUNNING, TxnState.DONE):
        raise UsageError("there is nothing to try again", why=f"the last transaction is {last.state}" if last else
                         "there was no transaction yet")
    return submit(world, last.task, last.args, requested_by=requested_by)


def cancel(world: World, tasks: TaskFiles | None = None) -> Transaction:
    """Ask for the running transaction to be ended. Raises Refused after its point of no return, UsageError when
    none is running."""
    from k8r_agent.steps.position import may_cancel, refusal

    txn = Journal(world.files).load(quarantine=False)
    if txn is None or txn.state is not TxnState.RUNNING:
        raise UsageError("no transaction is running")
    task = (tasks or TaskFiles(STEPS)).resume(txn)
    if not may_cancel(txn, task):
        raise refusal(txn, task)
    Journal(world.files).ask_cancel(txn.id)
    return replace(txn, cancel=True)
