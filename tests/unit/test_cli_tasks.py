"""Verbs that run a task, against the real runner and engine with toy steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from k8r_agent.errors import Exit, NothingToDo, Refused, StepFailed
from k8r_agent.model.slots import Slot, SlotState, SlotStatus
from k8r_agent.model.txn import Transaction, TxnState
from k8r_agent.ports.step import RebootRequested, World
from tests.fakes.prompt import Prompt
from tests.fakes.toytasks import TASK, toy_prompt, toy_steps, update


@pytest.fixture
def steps() -> dict[str, Any]:
    return toy_steps()


@pytest.fixture
def prompt(tmp_path: Path, steps: dict[str, Any]) -> Prompt:
    return toy_prompt(tmp_path, steps)


def test_a_verb_submits_follows_and_tells_how_it_ended(prompt: Prompt) -> None:
    assert update(prompt) == Exit.OK
    assert "✓ first" in prompt.err and "✓ second" in prompt.err
    assert prompt.out.startswith("update done (")
    txn = prompt.node.transaction()
    assert txn is not None and txn.args == {"source": str(prompt.tmp / "bundle")}


def test_the_result_as_json(prompt: Prompt) -> None:
    found = prompt.json("update", str(prompt.tmp / "bundle"))
    assert found["transaction"]["state"] == "done"
    assert found["transaction"]["task"] == "update"


def test_no_wait(prompt: Prompt) -> None:
    assert update(prompt, "--no-wait") == Exit.OK
    assert "task watch" in prompt.out
    assert len(prompt.node.queue.pending()) == 1
    assert prompt.run("task", "watch") == Exit.OK
    assert "update done" in prompt.out


def test_a_failed_step_is_exit_1_with_reason(prompt: Prompt, steps: dict[str, Any]) -> None:
    def fail(world: World) -> None:
        raise Refused("it is not allowed", why="because", hint="ask")
    steps["first"].effect = fail
    assert update(prompt) == Exit.FAILED
    assert "✗ first: it is not allowed" in prompt.err
    assert "error[refused]: update failed" in prompt.err


def test_nothing_to_do_is_0_or_77(prompt: Prompt, steps: dict[str, Any]) -> None:
    def nothing(world: World) -> None:
        raise NothingToDo("release 1 is there already")
    steps["first"].effect = nothing
    assert update(prompt) == Exit.OK
    assert "release 1 is there already" in prompt.out
    assert update(prompt, "--exit-77") == Exit.NOTHING_TO_DO


def test_busy_while_something_runs_or_waits(prompt: Prompt) -> None:
    prompt.node.journal.save(Transaction(id="x", task="reinstall", steps=("first",)))
    assert update(prompt) == Exit.BUSY
    assert "task watch" in prompt.err
    prompt.node.journal.save(Transaction(id="x", task="reinstall", steps=("first",), state=TxnState.DONE))
    update(prompt, "--no-wait")
    assert update(prompt) == Exit.BUSY
    assert prompt.json("update", str(prompt.tmp / "bundle"))["error"]["code"] == "busy"


def test_a_broken_configuration_is_told_before_anything_starts(prompt: Prompt) -> None:
    prompt.configure("[node]\nrol = 1\n")
    assert update(prompt) == Exit.BAD_CONFIG
    assert "agent.toml:2: there is no key rol" in prompt.err
    assert "did you mean role?" in prompt.err
    assert not prompt.node.queue.pending()


@pytest.mark.parametrize(("argv", "says"), [
    ((), "update.source is not set"), (("/does/not/exist",), "is not a directory"),
    (("ftp://example.org/",), "neither"), ((__file__,), "manifest.toml"),
])
def test_where_the_bundle_is(prompt: Prompt, argv: tuple[str, ...], says: str) -> None:
    assert prompt.run("update", *argv) == Exit.USAGE
    assert says in prompt.err


def test_the_configured_source(prompt: Prompt) -> None:
    prompt.configure('[update]\nsource = "https://images.example.org/k8r/"\n')
    assert prompt.run("update", "--no-wait") == Exit.OK
    assert prompt.node.queue.pending()[0].args == {"source": "https://images.example.org/k8r/"}


def test_force_is_passed_on(prompt: Prompt) -> None:
    assert update(prompt, "--force", "--no-wait") == Exit.OK
    assert prompt.node.queue.pending()[0].args["force"] == "yes"


def test_if_auto(prompt: Prompt) -> None:
    assert update(prompt, "--if-auto", "--no-wait") == Exit.OK
    assert update(prompt, "--if-auto", "--no-wait", "--exit-77") == Exit.NOTHING_TO_DO
    assert not prompt.node.queue.pending()
    prompt.configure("[update]\nauto = true\n")
    assert update(prompt, "--if-auto", "--no-wait") == Exit.OK
    assert prompt.node.queue.pending()


def test_control_c_detaches_and_the_work_goes_on(prompt: Prompt) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt
    prompt.node.runner = interrupt
    assert update(prompt) == Exit.FAILED
    assert "Re-attach with: k8r-agent task watch" in prompt.err
    prompt.node.runner = prompt.work
    assert prompt.run("task", "watch") == Exit.OK


def test_a_runner_that_does_not_run_is_remarked(prompt: Prompt) -> None:
    def wait_then_work() -> None:
        if prompt.node.slept > 40:
            prompt.work()
    prompt.node.runner = wait_then_work
    assert update(prompt) == Exit.OK
    assert "is k8r-runner.service running?" in prompt.err


def test_a_request_that_the_runner_declines(prompt: Prompt) -> None:
    prompt.world.files.on_partition = False  # type: ignore[attr-defined]
    assert update(prompt) == Exit.FAILED
    assert "error[no-state]" in prompt.err


def test_foreground(prompt: Prompt, steps: dict[str, Any]) -> None:
    prompt.node.runner = None
    steps["first"].effect = lambda world: world.report.progress(5, 10)
    steps["first"].summary = "Do the first"
    assert update(prompt, "--foreground") == Exit.OK
    assert "update done" in prompt.out
    assert "Do the first  50%  5 B of 10 B" in prompt.err
    assert "✓ first" in prompt.err and "✓ second" in prompt.err
    assert "idle" not in prompt.err


def test_foreground_is_busy_when_the_runner_works(prompt: Prompt) -> None:
    with prompt.lock.hold("the runner"):
        assert update(prompt, "--foreground") == Exit.BUSY
    assert "the runner" in prompt.err


def test_dry_run_plans_and_changes_nothing(prompt: Prompt, steps: dict[str, Any]) -> None:
    steps["first"].world.add("first")
    prompt.world.bundles = Bundles()
    before = dict(prompt.world.files.live)  # type: ignore[attr-defined]
    assert update(prompt, "--dry-run") == Exit.OK
    assert "done already" in prompt.out and "to do" in prompt.out
    found = prompt.json("update", str(prompt.tmp / "bundle"), "--dry-run")
    assert [step["name"] for step in found["plan"]["steps"]] == ["first", "second"]
    assert prompt.world.files.live == before  # type: ignore[attr-defined]
    assert steps["second"].applied == 0


class Bundles:
    """None to be opened."""

    def open(self, source: str) -> Any:
        raise StepFailed("no bundle here")


# reinstall


def test_reinstall_asks_and_takes_only_yes(prompt: Prompt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt.node, "reinstall_refusals", lambda force=False: ())
    assert prompt.run("reinstall", answer="no\n") == Exit.FAILED
    assert "Lost, with everything else" in prompt.err
    assert "nothing was changed" in prompt.err
    assert prompt.node.transaction() is None
    assert prompt.run("reinstall", answer="yes\n") == Exit.OK
    assert "reboots twice" in prompt.err


def test_reinstall_without_a_terminal_needs_yes(prompt: Prompt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt.node, "reinstall_refusals", lambda force=False: ())
    assert prompt.run("reinstall") == Exit.USAGE
    assert "--yes" in prompt.err
    assert prompt.run("reinstall", "--yes") == Exit.OK


def test_reinstall_is_refused_before_it_asks(prompt: Prompt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt.node, "reinstall_refusals", lambda force=False: (Refused("not now", why="window"),))
    assert prompt.run("reinstall", answer="yes\n") == Exit.FAILED
    assert "not now" in prompt.err and "Lost" not in prompt.err


# rollback


def test_rollback_finds_the_kept_release(prompt: Prompt) -> None:
    prompt.world.slots.set_status(Slot.WORKING, SlotStatus(state=SlotState.OK, release=2, digest="bb"))
    assert prompt.run("rollback", "--yes") == Exit.OK
    assert "no release to go back to" in prompt.out
    for release in (1, 2):
        prompt.world.slots.keep(release, {"source": f"{prompt.tmp}/bundle\n".encode()})
    (prompt.tmp / "tasks/rollback.toml").write_text(TASK.replace('"source"', '"source", "release", "force"'))
    assert prompt.run("rollback", "--yes", "--no-wait") == Exit.OK
    (request,) = prompt.node.queue.pending()
    assert request.args == {"source": f"{prompt.tmp}/bundle", "release": "1"}
    prompt.node.queue.remove(request.id)
    assert prompt.run("rollback", "--yes", "--force", "--no-wait") == Exit.OK
    assert prompt.node.queue.pending()[0].args["force"] == "yes"


# task …


def test_task_list_and_show(prompt: Prompt) -> None:
    assert prompt.run("task", "list") == Exit.OK
    assert "update" in prompt.out and "the queue is empty" in prompt.out
    assert prompt.run("task", "show", "update") == Exit.OK
    assert "point of no return" in prompt.out
    assert prompt.run("task", "show", "updat") == Exit.BAD_CONFIG
    assert "did you mean 'update'" in prompt.err
    assert prompt.run("task", "show") == Exit.OK
    assert "no transaction yet" in prompt.out
    update(prompt)
    assert prompt.run("task", "show") == Exit.OK
    assert "update" in prompt.out and "✓ second" in prompt.out


def test_watch_with_nothing_to_watch(prompt: Prompt) -> None:
    assert prompt.run("task", "watch") == Exit.OK
    assert "nothing is running" in prompt.out
    assert prompt.run("task", "watch", "--exit-77") == Exit.NOTHING_TO_DO


def test_cancel(prompt: Prompt) -> None:
    assert prompt.run("task", "cancel") == Exit.USAGE
    update(prompt, "--no-wait")
    assert prompt.run("task", "cancel") == Exit.OK
    assert "taken from the queue" in prompt.out
    prompt.node.journal.save(Transaction(id="x", task="update", steps=("first", "second")))
    assert prompt.run("task", "cancel") == Exit.OK
    assert prompt.node.journal.cancel_asked("x")
    prompt.node.journal.save(Transaction(id="x", task="update", steps=("first", "second"), tries={"second": 1}))
    assert prompt.run("task", "cancel") == Exit.FAILED
    assert "cannot be cancelled any more" in prompt.err


def test_retry(prompt: Prompt) -> None:
    assert prompt.run("task", "retry") == Exit.USAGE
    prompt.node.journal.save(Transaction(id="x", task="update", steps=("first",), state=TxnState.FAILED,
                                         args={"source": "/srv"}))
    assert prompt.run("task", "retry") == Exit.OK
    txn = prompt.node.transaction()
    assert txn is not None and (txn.args, txn.state) == ({"source": "/srv"}, TxnState.DONE)
    prompt.node.journal.save(Transaction(id="x", task="reinstall", steps=("first",), state=TxnState.FAILED))
    assert prompt.run("task", "retry") == Exit.USAGE
    assert "add --yes" in prompt.err


def test_events(prompt: Prompt) -> None:
    assert prompt.run("events") == Exit.OK
    update(prompt)
    assert prompt.run("events") == Exit.OK
    assert "started" in prompt.out and "succeeded" in prompt.out
    assert len(prompt.json("events", "-n", "2")["events"]) == 2
    assert prompt.json("events", "--txn", "nobody")["events"] == []
    assert prompt.run("events", "--json", "--follow") == Exit.USAGE


def test_first_boot_only_in_the_image_slot(prompt: Prompt) -> None:
    assert prompt.run("first-boot") == Exit.FAILED
    assert "error[protected]" in prompt.err


def test_runner_verb(prompt: Prompt) -> None:
    update(prompt, "--no-wait")
    assert prompt.json("runner")["outcome"] == "done"
    assert prompt.json("runner")["outcome"] is None


def test_a_reboot_in_the_middle_is_no_failure(prompt: Prompt, steps: dict[str, Any],
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    def arm(world: World) -> None:
        raise RebootRequested("into the image slot")
    monkeypatch.setattr(prompt.node, "reinstall_refusals", lambda force=False: ())
    steps["first"].effect = arm
    assert prompt.run("reinstall", "--yes") == Exit.OK
    assert "first: rebooting into the image slot" in prompt.err
    assert "goes on by itself" in prompt.out
    prompt.node.journal.save(Transaction(id="x", task="update", steps=("first",), state=TxnState.DONE))
    assert prompt.json("reinstall", "--yes")["rebooting"] is True


def test_what_comes_next_is_said_after_an_update(prompt: Prompt) -> None:
    prompt.world.slots.set_status(Slot.IMAGE, SlotStatus(state=SlotState.OK, release=2, version="2.0", digest="bb"))
    assert update(prompt) == Exit.OK
    assert "k8r-agent reinstall" in prompt.out.splitlines()[-1]
