"""update and rollback in the image slot; and a runner that cannot go on."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from k8r_agent.errors import Exit
from k8r_agent.model.slots import Slot, SlotState, SlotStatus
from k8r_agent.model.txn import Transaction, TxnState
from k8r_agent.runner import Runner
from tests.fakes.bundles import FakeBundles
from tests.fakes.prompt import TASKS, Prompt
from tests.fakes.toytasks import TASK, toy_prompt, toy_steps, update


@pytest.fixture
def steps() -> dict[str, Any]:
    return toy_steps()


@pytest.fixture
def prompt(tmp_path: Path, steps: dict[str, Any]) -> Prompt:
    return toy_prompt(tmp_path, steps)


def in_image(prompt: Prompt, **now: Any) -> None:
    """Release 2 failed in the working slot, release 1 was there before."""
    boot = prompt.world.boot
    boot.now = replace(boot.now, **{"current": Slot.IMAGE, "primary": Slot.IMAGE, **now})  # type: ignore[attr-defined]
    prompt.world.slots.set_status(Slot.WORKING, SlotStatus(state=SlotState.OK, release=2, digest="bb"))
    for release in (1, 2):
        prompt.world.slots.keep(release, {"source": f"{prompt.tmp}/bundle\n".encode()})
    (prompt.tmp / "tasks/rescue.toml").write_text(TASK.replace('"source"', '"source", "release", "force"'))


def test_update_writes_the_working_slot_where_there_is_none_to_boot(prompt: Prompt) -> None:
    in_image(prompt)
    assert update(prompt) == Exit.USAGE and "add --yes" in prompt.err
    assert prompt.run("update", str(prompt.tmp / "bundle"), answer="no\n") == Exit.FAILED
    assert "Lost: everything on the working slot (release 2)" in prompt.err
    assert not prompt.node.queue.pending()
    assert update(prompt, "--yes", "--no-wait", "--force") == Exit.OK
    assert [(r.task, dict(r.args)) for r in prompt.node.queue.pending()] == [
        ("rescue", {"source": f"{prompt.tmp}/bundle", "force": "yes"})]


def test_rollback_writes_the_working_slot_where_there_is_none_to_boot(prompt: Prompt) -> None:
    in_image(prompt, primary=Slot.WORKING, tries_left=0)
    prompt.world.bundles = FakeBundles()
    assert prompt.run("rollback", "--dry-run") == Exit.OK and "rescue: " in prompt.out
    assert prompt.run("rollback", "--yes", "--no-wait") == Exit.OK
    assert [(r.task, dict(r.args)) for r in prompt.node.queue.pending()] == [
        ("rescue", {"source": f"{prompt.tmp}/bundle", "release": "1"})]


def test_nothing_is_rescued_that_could_still_boot(prompt: Prompt) -> None:
    in_image(prompt, primary=Slot.WORKING, tries_left=1)
    assert update(prompt, "--no-wait") == Exit.OK
    assert prompt.node.queue.pending()[0].task == "update"  # which its steps then refuse


def test_the_timer_never_writes_the_working_slot(prompt: Prompt) -> None:
    prompt.configure("[update]\nauto = true\n")
    in_image(prompt)
    assert update(prompt, "--if-auto", "--no-wait", "--exit-77") == Exit.NOTHING_TO_DO
    assert "without an operator's word" in prompt.out and not prompt.node.queue.pending()


def test_a_rescue_is_asked_for_again_before_it_is_retried(prompt: Prompt) -> None:
    in_image(prompt)
    prompt.node.journal.save(Transaction(id="x", task="rescue", steps=("first",), state=TxnState.FAILED,
                                         args={"source": "/srv", "release": "1"}))
    assert prompt.run("task", "retry", answer="no\n") == Exit.FAILED
    assert "release 1 from /srv" in prompt.err
    assert prompt.run("task", "retry", "--yes") == Exit.OK


# a runner that cannot go on


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EROFS])
def test_a_runner_that_can_remember_nothing_ends_once_and_says_so(prompt: Prompt, fault: int,
                                                                  steps: dict[str, Any]) -> None:
    prompt.node.runner = None
    update(prompt, "--no-wait")
    prompt.world.files.fault = fault  # type: ignore[attr-defined]
    assert prompt.run("runner") == Exit.FAILED
    assert prompt.err.count(os.strerror(fault)) == 1
    assert "systemctl start k8r-runner.path" in prompt.err
    assert prompt.node.stopped == ["k8r-runner.path"], "or the request would start it again at once"
    assert update(prompt) == Exit.BUSY
    prompt.world.files.fault = 0  # type: ignore[attr-defined]
    assert prompt.json("runner")["outcome"] == "done" and steps["second"].applied == 1


def test_a_mistake_in_the_runner_is_worth_another_start(prompt: Prompt, monkeypatch: pytest.MonkeyPatch) -> None:
    def mistake(self: Runner) -> None:
        raise OSError(107, "Transport endpoint is not connected")
    monkeypatch.setattr(Runner, "run", mistake)
    assert prompt.run("runner") == Exit.BUSY
    assert "OSError" in prompt.err and "error[busy]" in prompt.err
    unit = (TASKS.parent / "units/k8r-runner.service").read_text()
    (never,) = re.findall("^RestartPreventExitStatus=(.*)$", unit, re.MULTILINE)
    assert {int(Exit.FAILED), int(Exit.USAGE), int(Exit.BAD_CONFIG)} == set(map(int, never.split()))
