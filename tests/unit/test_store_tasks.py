"""Task files: the shipped ones are sound, and every mistake in one is told with its line and the nearest name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from k8r_agent.errors import StepFailed, TaskFileError
from k8r_agent.model.task import StepRule, Task
from k8r_agent.model.txn import Transaction
from k8r_agent.steps import STEPS, TABLE
from k8r_agent.steps.position import may_cancel
from k8r_agent.store.hooks import Hooks
from k8r_agent.store.journal import Journal
from k8r_agent.store.tasks import TaskFiles, parse
from tests.fakes.statefiles import FakeStateFiles

SHIPPED = Path(__file__).parents[2] / "tasks"
KNOWN = ("write", "boot", "confirm", "disarm")
GOOD = """\
format = 1
summary = "x"
args = ["source"]
steps = ["write", "boot", "confirm"]
on_failure = ["disarm"]
point_of_no_return = "boot"

[step.boot]
timeout = "20min"
max_tries = 4
holds_until = "confirm"
"""


def write(tmp_path: Path, text: str, name: str = "toy") -> Path:
    path = tmp_path / f"{name}.toml"
    path.write_text(text)
    return path


def test_a_good_file_is_read(tmp_path: Path) -> None:
    assert parse(write(tmp_path, GOOD), KNOWN) == Task(
        name="toy", summary="x", steps=("write", "boot", "confirm"), args=("source",), on_failure=("disarm",),
        point_of_no_return="boot", rules={"boot": StepRule(timeout=1200, max_tries=4, holds_until="confirm")})


def test_what_is_done_after_a_failure_has_a_limit_of_its_own(tmp_path: Path) -> None:
    task = parse(write(tmp_path, GOOD + '[step.disarm]\ntimeout = "6h"\n'), KNOWN)
    assert task.rule("disarm").timeout == 6 * 3600


@pytest.mark.parametrize("name", ["reinstall", "rescue", "rollback", "settle"])
def test_a_control_plane_is_settled_on_the_slowest_medium(name: str) -> None:
    """Three waits of half an hour each, and the restore of a snapshot between them, as in the upgrade itself."""
    tasks = TaskFiles(TABLE, (SHIPPED,))
    assert tasks.load(name).rule("settle-control-plane").timeout == \
        tasks.load("reinstall").rule("upgrade-control-plane").timeout


@pytest.mark.parametrize(("old", "new", "line", "what"), [
    ('"boot", "confirm"]', '"boott", "confirm"]', 4, "did you mean 'boot'?"),
    ("on_failure", "on_faliure", 5, "did you mean 'on_failure'?"),
    ('["disarm"]', '["disarmm"]', 5, "did you mean 'disarm'?"),
    ("max_tries", "max_trys", 10, "did you mean 'max_tries'?"),
    ('"20min"', '"20 minutes"', 9, "20min or 1h"),
    ('"20min"', "20", 9, "must be a string"),
    ("= 4", "= 0", 10, "from 1 to 100"),
    ("= 4", "= true", 10, "from 1 to 100"),
    ('until = "confirm"', 'until = "write"', 11, "does not come after"),
    ('until = "confirm"', 'until = "confrim"', 11, "did you mean 'confirm'?"),
    ('return = "boot"', 'return = "disarm"', 6, "is not a step of this task"),
    ("[step.boot]", "[step.reboot]", 8, "is not a step of this task"),
    ("[step.boot]", "[step.disarm]", 11, "does not come after"),
    ("format = 1", "format = 2", 1, "format must be 1"),
    ('steps = ["write", "boot", "confirm"]', "steps = []", 4, "at least one"),
    ('["write", "boot", "confirm"]', '["boot", "boot", "confirm"]', 4, "only once"),
    ('["write", "boot", "confirm"]', '"write"', 4, "list of strings"),
    ('summary = "x"', "summary = 5", 2, "must be a string"),
    ('summary = "x"', "summary = ", 2, "TOML"),
])
def test_a_mistake_is_told_with_its_line(tmp_path: Path, old: str, new: str, line: int, what: str) -> None:
    assert old in GOOD
    with pytest.raises(TaskFileError) as caught:
        parse(write(tmp_path, GOOD.replace(old, new)), KNOWN)
    assert caught.value.where == f"{tmp_path}/toy.toml:{line}"
    assert what in f"{caught.value} {caught.value.hint}"


def test_the_administrators_file_wins(tmp_path: Path) -> None:
    for place in ("etc", "usr"):
        (tmp_path / place).mkdir()
        write(tmp_path / place, GOOD.replace('"x"', f'"{place}"'))
    tasks = TaskFiles(KNOWN, (tmp_path / "etc", tmp_path / "usr"))
    assert tasks.load("toy").summary == "etc" and tasks.names() == ("toy",)


def test_a_broken_file_is_found_by_a_check_but_strands_no_transaction(tmp_path: Path) -> None:
    for place in ("etc", "usr"):
        (tmp_path / place).mkdir()
    write(tmp_path / "etc", GOOD.replace("confirm", "confrim"))
    write(tmp_path / "usr", GOOD)
    tasks = TaskFiles(KNOWN, (tmp_path / "etc", tmp_path / "usr"))
    assert len(tasks.check()) == 1
    with pytest.raises(TaskFileError):
        tasks.load("toy")
    assert tasks.resume(Transaction(id="t", task="toy", steps=("write",))).rule("boot").max_tries == 4


def test_a_task_whose_file_is_gone_goes_on_by_what_was_written_down_at_its_begin(tmp_path: Path) -> None:
    begun = TaskFiles(TABLE, (SHIPPED,)).load("reinstall")
    journal = Journal(FakeStateFiles())
    journal.save(Transaction(id="t", task="reinstall", steps=begun.steps, definition=begun))
    txn = journal.load()
    assert txn is not None
    resumed = TaskFiles(TABLE, (tmp_path,)).resume(txn)
    assert resumed == replace(begun, args=())  # a request's arguments were checked when it was accepted
    assert resumed.rule("boot-working").holds_until == "confirm"
    assert not may_cancel(replace(txn, tries={"set-primary-image": 1}), resumed)


def test_a_file_with_other_steps_does_not_rule_a_transaction_that_was_begun_before(tmp_path: Path) -> None:
    begun = TaskFiles(TABLE, (SHIPPED,)).load("reinstall")
    (tmp_path / "reinstall.toml").write_text('format = 1\nsummary = "other"\nsteps = ["disarm"]\n')
    tasks = TaskFiles(TABLE, (tmp_path,))
    txn = Transaction(id="t", task="reinstall", steps=begun.steps, definition=begun)
    assert tasks.resume(txn) == begun
    raised = (SHIPPED / "reinstall.toml").read_text().replace('timeout = "2h"', 'timeout = "9h"')
    (tmp_path / "reinstall.toml").write_text(raised)
    assert tasks.resume(txn).rule("write-working").timeout == 9 * 3600, "an operator may give a slow device more time"


def test_where_nothing_is_known_the_point_of_no_return_counts_as_passed(tmp_path: Path) -> None:
    txn = Transaction(id="t", task="gone", steps=("write", "boot"))
    task = TaskFiles(TABLE, (tmp_path,)).resume(txn)
    assert task.steps == txn.steps and task.on_failure == ("disarm", "hold-image")
    assert may_cancel(txn, task) and not may_cancel(replace(txn, tries={"write": 1}), task)


@pytest.mark.parametrize("name", ["../etc/passwd", "", "Toy", "no/way"])
def test_a_name_is_no_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(TaskFileError, match="no task"):
        TaskFiles(KNOWN, (tmp_path,)).load(name)


def test_an_unknown_task_is_told_with_the_nearest(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    with pytest.raises(TaskFileError) as caught:
        TaskFiles(KNOWN, (tmp_path,)).load("toys")
    assert "'toy'" in caught.value.hint


# what is shipped


def test_the_shipped_tasks_are_sound() -> None:
    tasks = TaskFiles(TABLE, (SHIPPED,))
    assert tasks.names() == ("first-boot", "join", "reinstall", "rescue", "rollback", "settle", "update")
    assert tasks.check() == ()


def test_rollback_is_an_update_and_a_reinstall() -> None:
    tasks = TaskFiles(TABLE, (SHIPPED,))
    update, reinstall, rollback = (tasks.load(n) for n in ("update", "reinstall", "rollback"))
    assert rollback.steps[1:] == (*update.steps[1:], *reinstall.steps)
    for name in (*update.steps[1:], *reinstall.steps):
        assert rollback.rule(name) == (reinstall if name in reinstall.steps else update).rule(name)


def test_a_rescue_writes_the_working_slot_first_and_ends_as_an_update() -> None:
    tasks = TaskFiles(TABLE, (SHIPPED,))
    update, reinstall, rescue = (tasks.load(n) for n in ("update", "reinstall", "rescue"))
    assert rescue.steps[-3:] == update.steps[-3:] and rescue.args == (*update.args[:1], "release", *update.args[1:])
    assert rescue.steps.index("confirm") < rescue.steps.index("write-image")
    order = [rescue.steps.index(n) for n in ("set-primary-image", "fetch-working", "boot-working", "confirm")]
    assert order == sorted(order)
    assert (rescue.on_failure, rescue.point_of_no_return) == (reinstall.on_failure, reinstall.point_of_no_return)
    after = reinstall.steps[reinstall.steps.index("boot-working"):]
    assert rescue.steps[rescue.steps.index("boot-working"):-3] == after, "the way back into the cluster is the same"
    for name in ("set-primary-image", *after):
        assert rescue.rule(name) == reinstall.rule(name)
    for name in update.steps[-3:]:
        assert rescue.rule(name) == update.rule(name)


@pytest.mark.parametrize("name", ["reinstall", "rollback", "first-boot"])
def test_the_boot_that_is_confirmed_must_hold_until_it_is(name: str) -> None:
    task = TaskFiles(TABLE, (SHIPPED,)).load(name)
    assert task.steps[-1] == "confirm" or task.steps[-2:] == ("confirm", "uncordon")
    assert task.rule("boot-working").holds_until == "confirm"
    if "boot-image" in task.steps:
        assert task.rule("boot-image").holds_until == "install-working-assets"
        assert task.steps.index("self-check") < task.steps.index("set-primary-image") == (
            task.steps.index("write-working") - 1)


def test_cancel_ends_at_the_point_of_no_return() -> None:
    task = TaskFiles(TABLE, (SHIPPED,)).load("reinstall")
    txn = Transaction(id="t", task="reinstall", steps=task.steps, tries={"self-check": 1})
    assert may_cancel(txn, task)
    assert not may_cancel(replace(txn, tries={"set-primary-image": 1}), task)


def test_every_step_of_the_table_can_be_made() -> None:
    missing = []
    for name in TABLE:
        try:
            step = STEPS[name]
        except ModuleNotFoundError:
            missing.append(name)
            continue
        assert step.name == name and step.summary
    assert not missing


# hooks


class Ran:
    def __init__(self) -> None:
        self.argv: list[list[str]] = []

    def run(self, argv: list[str], **options: object) -> None:
        self.argv.append(list(argv))


def hook(root: Path, name: str, mode: int = 0o755) -> Path:
    path = root / "update" / "before-write-image" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    for directory in (root, root / "update", path.parent):  # whatever the umask
        directory.chmod(0o755)
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return path


def run_hooks(root: Path, owner: int) -> list[list[str]]:
    commands = Ran()
    Hooks(lambda: commands, root=root, owner=owner).run(  # type: ignore[arg-type, return-value]
        "update", "before", "write-image", {"txn": "t1"})
    return commands.argv


def test_hooks_run_in_order_with_what_they_need_to_know(tmp_path: Path) -> None:
    second, first = hook(tmp_path, "20-second"), hook(tmp_path, "10-first")
    hook(tmp_path, "10-first.dpkg-old")
    hook(tmp_path, "README")
    owner = first.stat().st_uid
    assert [argv[-1] for argv in run_hooks(tmp_path, owner)] == [str(first), str(second)]
    assert run_hooks(tmp_path, owner)[0][:-1] == ["/usr/bin/env", "K8R_STEP=write-image", "K8R_TASK=update",
                                                  "K8R_TXN=t1"]


def test_no_hooks_are_no_fault(tmp_path: Path) -> None:
    assert run_hooks(tmp_path, 0) == []


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o644, 0o4757])
def test_a_hook_that_another_could_have_written_is_not_run(tmp_path: Path, mode: int) -> None:
    path = hook(tmp_path, "10-first", mode)
    with pytest.raises(Exception, match="10-first"):
        run_hooks(tmp_path, path.stat().st_uid)


@pytest.mark.parametrize("above", ["", "update", "update/before-write-image"])
@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777])
def test_a_hook_that_another_could_have_put_there_is_not_run(tmp_path: Path, above: str, mode: int) -> None:
    root = tmp_path / "hooks"
    owner = hook(root, "10-first").stat().st_uid
    assert len(run_hooks(root, owner)) == 1
    (root / above).chmod(mode)
    with pytest.raises(StepFailed, match="not a directory that only root may write"):
        run_hooks(root, owner)


@pytest.mark.parametrize("above", ["", "update", "update/before-write-image"])
def test_a_hook_below_a_link_is_not_run(tmp_path: Path, above: str) -> None:
    root = tmp_path / "hooks"
    owner = hook(root, "10-first").stat().st_uid
    (root / above).rename(tmp_path / "elsewhere")
    (root / above).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StepFailed, match="not a directory"):
        run_hooks(root, owner)


def test_an_empty_directory_of_somebody_else_is_no_fault(tmp_path: Path) -> None:
    hook(tmp_path, "10-first").unlink()
    (tmp_path / "update").chmod(0o777)
    assert run_hooks(tmp_path, tmp_path.stat().st_uid) == []


def test_a_hook_of_another_owner_or_a_link_is_not_run(tmp_path: Path) -> None:
    path = hook(tmp_path, "10-first")
    with pytest.raises(Exception, match="only root"):
        run_hooks(tmp_path, path.stat().st_uid + 1)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Exception, match="only root"):
        run_hooks(tmp_path, (tmp_path / "elsewhere").stat().st_uid)
