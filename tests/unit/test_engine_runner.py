"""The runner: what it resumes, accepts and declines, and what a node does without being asked."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from k8r_agent import runner as runners
from k8r_agent.config.settings import BootSettings, Settings
from k8r_agent.engine import Outcome
from k8r_agent.errors import Busy, DiskAmbiguous, FetchError, K8rError, Refused, StateError, UsageError
from k8r_agent.model.slots import Slot, SlotState, SlotStatus
from k8r_agent.model.txn import Request, Transaction, TxnState
from k8r_agent.ports.step import World
from k8r_agent.runner import Runner
from k8r_agent.steps import duties
from k8r_agent.store.hooks import Hooks
from k8r_agent.store.journal import Journal
from k8r_agent.store.lock import Lock
from k8r_agent.store.queue import new_id
from k8r_agent.store.tasks import TaskFiles
from tests.fakes.simple import SimpleBoot, SimpleMachine, ToyStep, reboot, simple_world
from tests.fakes.statefiles import FakeStateFiles

IMAGE, WORKING = Slot.IMAGE, Slot.WORKING
TASKS = {
    "update": 'args = ["source"]\nsteps = ["a", "b"]\n',
    "reinstall": 'steps = ["a", "b"]\non_failure = ["undo"]\npoint_of_no_return = "b"\n',
    "first-boot": 'steps = ["a", "b"]\n',
}


@dataclass
class Bench:
    tmp: Path
    world: World = field(default_factory=simple_world)
    effects: dict[str, Callable[[World], None]] = field(default_factory=dict)
    stop: Callable[[], bool] = lambda: False

    def __post_init__(self) -> None:
        for name, text in TASKS.items():
            (self.tmp / f"{name}.toml").write_text(f'format = 1\nsummary = "{name}"\n{text}')
        self.shared: set[str] = set()
        self.steps = {n: ToyStep(n, self.shared, self.effects.get(n)) for n in ("a", "b", "undo")}
        self.tasks = TaskFiles(self.steps, (self.tmp,))
        self.slept = 0.0

    @property
    def boot(self) -> SimpleBoot:
        assert isinstance(self.world.boot, SimpleBoot)
        return self.world.boot

    @property
    def machine(self) -> SimpleMachine:
        assert isinstance(self.world.machine, SimpleMachine)
        return self.world.machine

    def sleep(self, seconds: float) -> None:
        self.slept += seconds
        self.machine.clock.sleep(seconds)

    def runner(self) -> Runner:
        return Runner(self.world, tasks=self.tasks, steps=self.steps, lock=Lock(self.tmp / "lock"), hooks=Hooks(None),
                      sleep=self.sleep, stop=self.stop)

    def run(self) -> Outcome | None:
        return self.runner().run()

    def submit(self, task: str, **args: str) -> Request:
        self.machine.clock.sleep(1)
        return runners.submit(self.world, task, args, requested_by="tester")

    @property
    def last(self) -> Transaction:
        txn = Journal(self.world.files).load()
        assert txn is not None
        return txn

    def messages(self) -> str:
        return "\n".join(e.message for e in self.runner().events.read())

    def at(self, *, current: Slot | None, primary: Slot, armed: Slot | None = None, tries: int | None = 3) -> Bench:
        self.boot.now = replace(self.boot.now, current=current, primary=primary, armed=armed, tries_left=tries)
        return self

    def slot(self, slot: Slot, state: SlotState = SlotState.OK, **more: Any) -> Bench:
        self.world.slots.set_status(slot, SlotStatus(state=state, **more))
        return self


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_requests_run_in_order_and_leave_the_queue(bench: Bench) -> None:
    first, second = bench.submit("update", source="/media"), bench.submit("reinstall")
    runner = bench.runner()
    assert runner.run() is Outcome.DONE
    assert bench.last.id == second.id and bench.last.state is TxnState.DONE and runner.queue.pending() == ()
    assert [e.txn for e in runner.events.read() if e.kind == "started" and not e.step] == [first.id, second.id]


def test_without_work_it_just_ends(bench: Bench) -> None:
    assert bench.run() is None


def test_an_interrupted_transaction_comes_before_the_queue(bench: Bench) -> None:
    old = Transaction(id=new_id(1.0), task="update", steps=("a", "b"), tries={"a": 1})
    Journal(bench.world.files).save(old)
    bench.submit("reinstall")
    assert bench.run() is Outcome.DONE
    ended = [e.task for e in bench.runner().events.read() if not e.step and e.kind == "succeeded"]
    assert ended == ["update", "reinstall"]


def test_a_task_file_that_goes_while_it_runs_takes_nothing_with_it(tmp_path: Path) -> None:
    def stop_after(world: World) -> None:
        (tmp_path / "reinstall.toml").unlink()
        raise KeyboardInterrupt

    bench = Bench(tmp_path, effects={"b": stop_after})
    bench.submit("reinstall")
    with pytest.raises(KeyboardInterrupt):
        bench.run()
    with pytest.raises(Refused, match="cannot be cancelled any more"):
        runners.cancel(bench.world, bench.tasks)
    Journal(bench.world.files).ask_cancel(bench.last.id)
    bench.steps["b"].effect = None
    assert bench.run() is Outcome.DONE and bench.steps["undo"].applied == 0


def test_a_request_accepted_before_a_power_cut_is_not_run_twice(bench: Bench) -> None:
    request = bench.submit("update")
    Journal(bench.world.files).save(Transaction(id=request.id, task="update", steps=("a",), state=TxnState.DONE))
    assert bench.run() is None and bench.runner().queue.pending() == ()
    assert bench.steps["a"].applied == 0


@pytest.mark.parametrize(("task", "args", "why"), [
    ("updates", {}, "no task 'updates'"), ("update", {"force": "yes"}, "takes no argument 'force'"),
])
def test_what_cannot_run_is_declined_where_its_follower_looks(
        bench: Bench, task: str, args: dict[str, str], why: str) -> None:
    request = bench.submit(task, **args)
    assert bench.run() is Outcome.FAILED
    assert bench.last.id == request.id and bench.last.state is TxnState.FAILED and why in bench.last.note
    assert bench.last.facts["hint"] and why in bench.messages()


def test_without_a_state_partition_nothing_but_first_boot_starts(tmp_path: Path) -> None:
    bench = Bench(tmp_path, world=simple_world(files=FakeStateFiles(on_partition=False)))
    bench.submit("update")
    assert bench.run() is Outcome.FAILED and bench.last.facts["error"] == "no-state"
    bench.submit("first-boot")
    assert bench.run() is Outcome.DONE


def test_a_damaged_journal_is_said_once_and_work_goes_on(bench: Bench) -> None:
    bench.world.files.write("transaction.json", b"{")
    bench.submit("update")
    assert bench.run() is Outcome.DONE and "transaction.json is damaged" in bench.messages()


def test_a_journal_of_the_day_after_tomorrow_is_left_alone(bench: Bench) -> None:
    bench.world.files.write("transaction.json", b'{"format": 9}')
    with pytest.raises(StateError):
        bench.run()
    assert bench.world.files.read("transaction.json") == b'{"format": 9}'


def test_a_reboot_ends_the_run(tmp_path: Path) -> None:
    bench = Bench(tmp_path, effects={"a": reboot})
    bench.submit("update")
    bench.submit("reinstall")
    assert bench.run() is Outcome.REBOOTING and bench.machine.reboots == 1
    assert len(bench.runner().queue.pending()) == 1


@pytest.mark.fault(26)
def test_two_never_run(bench: Bench) -> None:
    with Lock(bench.tmp / "lock").hold("somebody"), pytest.raises(Busy, match="somebody"):
        bench.run()


def test_told_to_stop_it_stops_and_another_goes_on(tmp_path: Path) -> None:
    asked: list[int] = []
    bench = Bench(tmp_path, effects={"a": lambda world: asked.append(1)}, stop=lambda: bool(asked))
    bench.submit("update")
    assert bench.run() is Outcome.STOPPED and bench.last.state is TxnState.RUNNING
    asked.clear()
    bench.steps["a"].effect = None
    assert bench.run() is Outcome.DONE and bench.steps["a"].applied == 1


def test_retry_asks_for_the_same_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path, effects={"a": _fail_once()})
    bench.submit("update", source="/media")
    assert bench.run() is Outcome.FAILED
    again = runners.retry(bench.world, requested_by="x")
    assert (again.task, again.args) == ("update", {"source": "/media"})
    assert bench.run() is Outcome.DONE
    with pytest.raises(UsageError, match="nothing to try again"):
        runners.retry(bench.world, requested_by="x")


def _fail_once() -> Callable[[World], None]:
    left = [Refused("not now")]

    def effect(world: World) -> None:
        if left:
            raise left.pop()
    return effect


def test_cancel_is_asked_for_by_file_and_refused_when_too_late(tmp_path: Path) -> None:
    def ask(world: World) -> None:
        assert runners.cancel(world, mine.tasks).cancel

    def too_late(world: World) -> None:
        with pytest.raises(Refused, match="cannot be cancelled"):
            runners.cancel(world, mine.tasks)

    mine = Bench(tmp_path, effects={"a": ask})
    with pytest.raises(UsageError):
        runners.cancel(mine.world, mine.tasks)
    mine.submit("reinstall")
    assert mine.run() is Outcome.CANCELLED and mine.steps["undo"].applied == 1
    mine.steps["a"].effect, mine.steps["b"].effect = None, too_late
    mine.submit("reinstall")
    assert mine.run() is Outcome.DONE


# duties


def test_in_the_working_slot_all_is_well(bench: Bench) -> None:
    assert duties.decide(bench.world, None) == duties.Duty()


def test_a_stale_arming_is_forgotten(bench: Bench) -> None:
    bench.at(current=WORKING, primary=WORKING, armed=IMAGE)
    assert bench.run() is None and bench.boot.now.armed is None and "disarmed" in bench.messages()


def test_a_stray_image_slot_goes_back_to_working_after_a_grace_time(bench: Bench) -> None:
    bench.world.settings = replace(bench.world.settings, boot=BootSettings(grace=7.0))
    bench.at(current=IMAGE, primary=WORKING).slot(WORKING)
    assert bench.run() is Outcome.REBOOTING
    assert bench.machine.reboots == 1 and bench.slept == 7


def test_a_request_in_the_grace_time_comes_first(bench: Bench) -> None:
    bench.at(current=IMAGE, primary=WORKING).slot(WORKING)
    sleep, asked = bench.sleep, list[Request]()

    def sleep_and_ask(seconds: float) -> None:
        sleep(seconds)
        if not asked:
            asked.append(bench.submit("update"))

    bench.sleep = sleep_and_ask  # type: ignore[method-assign]
    assert bench.run() is Outcome.REBOOTING
    assert bench.last.id == asked[0].id and bench.last.state is TxnState.DONE


def test_a_confirm_in_the_grace_time_ends_it(bench: Bench) -> None:
    bench.at(current=WORKING, primary=IMAGE).slot(WORKING)
    sleep = bench.sleep

    def confirm(seconds: float) -> None:
        sleep(seconds)
        with Lock(bench.tmp / "lock").hold("confirm"):  # as the verb does
            bench.boot.set_primary(WORKING)

    bench.sleep = confirm  # type: ignore[method-assign]
    assert bench.run() is None and bench.machine.reboots == 0


@pytest.mark.fault(19)
def test_going_back_is_limited(bench: Bench) -> None:
    bench.at(current=IMAGE, primary=WORKING, tries=None).slot(WORKING)
    for _ in range(3):
        assert bench.run() is Outcome.REBOOTING
    assert bench.run() is None and bench.machine.reboots == 3
    assert "ended in the image slot again" in duties.decide(bench.world, None).why
    bench.at(current=WORKING, primary=WORKING)
    assert bench.run() is None
    bench.at(current=IMAGE, primary=WORKING)
    assert bench.run() is Outcome.REBOOTING


def test_without_a_state_partition_the_node_stays_in_the_wrong_slot(tmp_path: Path) -> None:
    bench = Bench(tmp_path, world=simple_world(files=FakeStateFiles(on_partition=False)))
    bench.at(current=IMAGE, primary=WORKING)
    assert bench.run() is None and bench.machine.reboots == 0
    assert "no state partition" in duties.decide(bench.world, None).why


def test_a_failed_new_system_is_left_for_the_image_slot_which_stays(bench: Bench) -> None:
    failed = Transaction(id=new_id(1.0), task="reinstall", steps=(), state=TxnState.FAILED, note="no SSH")
    Journal(bench.world.files).save(failed)
    bench.at(current=WORKING, primary=IMAGE).slot(WORKING)
    assert bench.run() is Outcome.REBOOTING and "no SSH" in bench.messages()
    bench.boot.power_on()
    assert bench.boot.now.current is IMAGE
    assert bench.run() is None and bench.machine.reboots == 1
    assert "no SSH" in duties.decide(bench.world, failed).why


def test_a_dead_working_slot_is_offered_a_reinstall(bench: Bench) -> None:
    bench.at(current=IMAGE, primary=WORKING, tries=0).slot(IMAGE)
    assert bench.run() is Outcome.REBOOTING and bench.boot.now.armed is WORKING and bench.slept == 300
    bench.at(current=WORKING, primary=WORKING, tries=0)  # up, but this boot never completed
    assert bench.run() is None
    bench.at(current=IMAGE, primary=WORKING, tries=0)
    assert bench.run() is None and bench.machine.reboots == 1
    duty = duties.decide(bench.world, None)
    assert "used up its boot tries" in duty.why and "k8r-agent reinstall" in duty.hint


@pytest.mark.fault(19)
def test_a_dead_working_slot_is_reinstalled_when_so_configured_but_not_for_ever(tmp_path: Path) -> None:
    settings = Settings(boot=BootSettings(when_working_dead="reinstall"))
    bench = Bench(tmp_path, world=simple_world(settings=settings))
    bench.at(current=IMAGE, primary=WORKING, tries=0).slot(IMAGE, digest="ab")
    assert bench.run() is Outcome.REBOOTING  # the last chance
    bench.boot.disarm()
    assert bench.run() is Outcome.DONE  # both automatic ones: the toys leave the slots as they are
    assert bench.last.task == "reinstall" and bench.run() is None
    assert "did not last" in duties.decide(bench.world, bench.last).why
    bench.submit("update")  # the timer may ask for that: it gives nothing back
    assert bench.run() is Outcome.DONE and bench.last.task == "update"
    bench.submit("reinstall")
    assert bench.run() is Outcome.REBOOTING and bench.last.task == "reinstall"  # an operator gives all of it back


def test_a_fresh_disk_is_set_up_by_itself(tmp_path: Path) -> None:
    bench = Bench(tmp_path, world=simple_world(files=FakeStateFiles(on_partition=False)))
    bench.world.state.uuid = None  # type: ignore[attr-defined]
    bench.at(current=IMAGE, primary=IMAGE)
    bench.steps["b"].effect = lambda world: world.slots.set_status(WORKING, SlotStatus(state=SlotState.OK))
    assert bench.run() is Outcome.DONE and bench.last.task == "first-boot"


def test_a_first_boot_that_failed_is_not_repeated_by_itself(tmp_path: Path) -> None:
    bench = Bench(tmp_path, effects={"a": lambda w: (_ for _ in ()).throw(Refused("foreign state"))})
    bench.world.state.uuid = None  # type: ignore[attr-defined]
    bench.at(current=IMAGE, primary=IMAGE)
    assert bench.run() is Outcome.FAILED
    assert bench.run() is None and bench.steps["a"].applied == 1
    assert "foreign state" in duties.decide(bench.world, bench.last).why


@pytest.mark.fault(29)
def test_a_state_partition_that_cannot_be_mounted_is_no_fresh_disk(tmp_path: Path) -> None:
    bench = Bench(tmp_path, world=simple_world(files=FakeStateFiles(on_partition=False)))
    bench.at(current=IMAGE, primary=IMAGE)
    assert bench.run() is None and "nothing is formatted" in duties.decide(bench.world, None).why


@pytest.mark.parametrize("error", [DiskAmbiguous("two disks"), FetchError("odd")])
def test_what_cannot_be_observed_is_not_acted_upon(bench: Bench, error: K8rError) -> None:
    bench.world.disks.error = error  # type: ignore[attr-defined]
    bench.at(current=IMAGE, primary=WORKING)
    assert bench.run() is None and bench.machine.reboots == 0
    assert str(error) in duties.decide(bench.world, None).why


def test_a_reboot_that_cannot_be_counted_is_not_done(bench: Bench) -> None:
    bench.at(current=IMAGE, primary=WORKING).slot(WORKING)
    bench.world.files.fault = errno.ENOSPC  # type: ignore[attr-defined]
    with pytest.raises(StateError, match="No space left"):
        bench.run()
    assert bench.machine.reboots == 0 and bench.boot.now.armed is None


def test_a_mistake_of_ours_in_a_duty_is_noted_and_no_end(bench: Bench) -> None:
    bench.world.disks.error = OSError(5, "Input/output error")  # type: ignore[attr-defined]
    assert bench.run() is None and "Input/output error" in bench.messages()


def test_a_rescue_system_does_nothing_by_itself(bench: Bench) -> None:
    bench.at(current=None, primary=IMAGE)
    assert bench.run() is None and "not booted from" in duties.decide(bench.world, None).why


def test_damaged_counters_count_as_used_up() -> None:
    files = FakeStateFiles()
    files.write("duties.json", b"{")
    assert duties.counters(files).returns == duties.RETURNS
