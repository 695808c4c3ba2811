from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import pytest

from k8r_agent.errors import BootError, DiskAmbiguous, Exit
from k8r_agent.model.boot import BootFacts, BootState
from k8r_agent.model.slots import Slot, SlotState, SlotStatus
from k8r_agent.model.txn import Event, Request, Transaction, TxnState
from tests.fakes.disks import FakeDisks
from tests.fakes.prompt import Prompt

NOW = 1795172400.0


@pytest.fixture
def prompt(tmp_path: Path) -> Prompt:
    """A node in good order: release 1 in both slots."""
    found = Prompt(tmp_path)
    put(found, Slot.WORKING, release=1, version="2026.09.3", digest="aa")
    put(found, Slot.IMAGE, release=1, version="2026.09.3", digest="aa")
    found.configure('[update]\nsource = "https://images.example.org/"\n')
    return found


def put(prompt: Prompt, slot: Slot, *, state: SlotState = SlotState.OK, **more: object) -> None:
    prompt.world.slots.set_status(slot, SlotStatus(state=state, time=NOW - 3600, **more))  # type: ignore[arg-type]


def last(prompt: Prompt, state: TxnState, **more: object) -> Transaction:
    txn = Transaction(id="20261120T110000.000000Z-0001", task="update", steps=("a", "b"), state=state,
                      started=NOW - 100, ended=NOW - 60, **more)  # type: ignore[arg-type]
    return prompt.node.journal.save(txn)


def advice(prompt: Prompt) -> str:
    assert prompt.run("status") == Exit.OK
    return prompt.out.splitlines()[-1]


def boot(prompt: Prompt, **more: object) -> None:
    prompt.world.boot.now = replace(prompt.world.boot.now, **more)  # type: ignore[attr-defined]


def test_a_node_in_good_order(prompt: Prompt) -> None:
    last(prompt, TxnState.DONE)
    assert advice(prompt) == "→ nothing to do"
    assert "2026.09.3 (release 1)" in prompt.out
    assert "ok, booted, primary" in prompt.out
    assert "boots working (3 tries left); nothing armed" in prompt.out
    assert "update done 1 min 00 s ago" in prompt.out


def test_a_staged_release(prompt: Prompt) -> None:
    put(prompt, Slot.IMAGE, release=2, version="2026.11.1", digest="bb")
    assert advice(prompt) == "→ 2026.11.1 (release 2) is in the image slot: `k8r-agent reinstall` installs it"


def test_a_running_transaction_and_its_step(prompt: Prompt) -> None:
    txn = last(prompt, TxnState.RUNNING)
    prompt.node.events.append(Event(time=NOW, txn=txn.id, task="update", step="write-image", kind="started"))
    assert advice(prompt).startswith("→ update waits for a runner, and none works now: `journalctl ")
    with prompt.lock.hold("k8r-agent runner"):
        assert advice(prompt) == "→ update is running: `k8r-agent task watch`"
    assert "update running at write-image, started 1 min 40 s ago" in prompt.out


def test_a_queued_request(prompt: Prompt) -> None:
    prompt.node.queue.put(Request(id="20261120T110000.000000Z-0002", task="update"))
    assert advice(prompt).startswith("→ update waits for a runner, and none works now: `journalctl ")
    with prompt.lock.hold("k8r-agent runner"):
        assert advice(prompt) == "→ update is queued: `k8r-agent task watch`"
    assert "20261120T110000.000000Z-0002" in prompt.out


def test_a_failed_transaction_with_its_reason(prompt: Prompt) -> None:
    last(prompt, TxnState.FAILED, note="write-image: the source went away")
    assert "task retry" in advice(prompt)
    assert "the source went away" in prompt.out


def test_the_remedy_of_the_last_failure_is_what_to_do(prompt: Prompt) -> None:
    last(prompt, TxnState.FAILED, note="check-bundle: no room", facts={"hint": "free some"})
    assert advice(prompt) == "→ the last update failed: free some, then `k8r-agent task retry`"
    assert prompt.out.count("free some") == 1


def test_half_written_image(prompt: Prompt) -> None:
    put(prompt, Slot.IMAGE, state=SlotState.PENDING, release=2)
    assert advice(prompt) == "→ the image slot is half written: `k8r-agent update` writes it again"
    prompt.configure("")
    assert "`k8r-agent update DIR|URL`" in advice(prompt), "without a configured source, `update` alone does not do"
    last(prompt, TxnState.CANCELLED)
    assert "`k8r-agent task retry`" in advice(prompt)


def test_what_the_runner_would_say_is_said_here(prompt: Prompt) -> None:
    boot(prompt, current=Slot.IMAGE, tries_left=0)
    assert "used up its boot tries" in advice(prompt)
    assert "k8r-agent reinstall" in prompt.out


def test_a_working_slot_without_a_kernel_is_not_booted_again(prompt: Prompt) -> None:
    boot(prompt, current=Slot.IMAGE)
    assert "working is the primary" in advice(prompt)
    del prompt.world.boot.kept[Slot.WORKING]  # type: ignore[attr-defined]
    assert "kernel or initrd is missing or damaged, so the image slot was booted" in advice(prompt)
    assert "k8r-agent reinstall" in prompt.out


def test_a_twin_disk(prompt: Prompt) -> None:
    facts = prompt.world.disks.facts()
    prompt.world.disks.facts = lambda: replace(facts, duplicate="/dev/sdb")  # type: ignore[method-assign]
    prompt.world.disks.error = DiskAmbiguous("two disks", hint="remove one")  # type: ignore[attr-defined]
    assert "remove one" in advice(prompt)
    assert "! /dev/sdb carries the same IDs" in prompt.out


def test_without_a_state_partition(prompt: Prompt) -> None:
    facts: BootFacts = prompt.world.disks.facts()
    prompt.world.disks.facts = lambda: replace(facts, state="failed:e2fsck said 4")  # type: ignore[method-assign]
    prompt.world.files.on_partition = False  # type: ignore[attr-defined]
    prompt.run("status")
    assert "no state partition (e2fsck said 4)" in prompt.out
    assert "in RAM only" in prompt.out
    assert "k8r-recovery(7)" in prompt.out.splitlines()[-1]


def test_a_full_state_partition(prompt: Prompt) -> None:
    last(prompt, TxnState.RUNNING)
    prompt.world.files.fault = errno.ENOSPC  # type: ignore[attr-defined]
    assert advice(prompt).startswith("→ the state partition is full: ") and "systemctl start k8r-runner" in prompt.out
    assert "! the state partition is full: no task goes on or is started" in prompt.out


def test_a_machine_that_is_no_node(prompt: Prompt) -> None:
    def facts() -> BootFacts:
        raise BootError("not a node")
    prompt.world.disks.facts = facts  # type: ignore[method-assign]
    assert "not booted by k8r" in advice(prompt)


def test_one_broken_part_does_not_hide_the_others(prompt: Prompt) -> None:
    prompt.world.files.write("transaction.json", b"{")
    prompt.world.boot.state = _broken  # type: ignore[method-assign]
    assert prompt.run("status") == Exit.OK
    assert "! transaction.json is damaged" in prompt.out
    assert "! the boot partition cannot be read" in prompt.out
    assert "2026.09.3 (release 1)" in prompt.out
    assert prompt.world.files.read("transaction.json") == b"{"  # status repairs nothing


@pytest.mark.parametrize(("watchdog", "said"), [
    (None, "! no watchdog: a hang of the kernel needs a person"),
    ("Software Watchdog", "! no hardware watchdog: a hang in which the kernel's clock stops too needs a person"),
    ("i6300ESB timer", "")])
def test_what_no_watchdog_covers(prompt: Prompt, watchdog: str | None, said: str) -> None:
    facts: BootFacts = prompt.world.disks.facts()
    prompt.world.disks.facts = lambda: replace(facts, watchdog=watchdog)  # type: ignore[method-assign]
    assert advice(prompt) == "→ nothing to do"
    assert said in prompt.out.splitlines() if said else "watchdog" not in prompt.out


def _broken() -> BootState:
    raise BootError("the boot partition cannot be read")


def test_status_repairs_nothing(prompt: Prompt) -> None:
    """That is the runner's work, which says so in the event log."""
    for name in ("slots.json", "release-floor", "duties.json", "transaction.json"):
        prompt.world.files.write(name, b"{")
    boot(prompt, current=Slot.IMAGE)
    before = dict(prompt.world.files.live)  # type: ignore[attr-defined]
    for verb in (("status",), ("slot", "list"), ("task", "list"), ("events",), ("check", "/nowhere")):
        prompt.run(*verb)
    prompt.run("status")
    assert "! slots.json is damaged" in prompt.out and "! release-floor is damaged" in prompt.out
    assert prompt.world.files.live == before  # type: ignore[attr-defined]
    boot(prompt, current=Slot.WORKING)
    prompt.work()
    assert len(prompt.world.files.names("quarantine")) == 3
    assert "slots.json is damaged" in "".join(e.message for e in prompt.node.events.read())
    prompt.run("status")
    assert "damaged" not in prompt.out


def test_a_broken_configuration_is_a_remark(prompt: Prompt) -> None:
    prompt.configure("[nod]\n")
    prompt.run("status")
    assert "nothing to do" in prompt.out
    prompt.configure("[node]\nrole = 5\nhostname = 6\n")
    prompt.run("status")
    assert "the configuration has 2 mistakes" in prompt.out


def test_json_has_the_same(prompt: Prompt) -> None:
    put(prompt, Slot.IMAGE, release=2, version="2026.11.1", digest="bb")
    last(prompt, TxnState.DONE)
    found = prompt.json("status")
    assert found["current"] == "working"
    assert found["slots"]["image"]["release"] == 2
    assert found["slots"]["image"]["state"] == "ok"
    assert found["boot"] == {"backend": "simple", "primary": "working", "armed": None, "tries_left": 3}
    assert found["transaction"]["state"] == "done"
    assert found["state"]["persistent"] is True
    assert "reinstall" in found["advice"]


def test_armed(prompt: Prompt) -> None:
    boot(prompt, armed=Slot.IMAGE)
    prompt.run("status")
    assert "armed: image, once" in prompt.out


def test_slot_list(prompt: Prompt) -> None:
    prompt.world.disks = FakeDisks()  # as flashed: there is no third partition yet
    assert prompt.run("slot", "list") == Exit.OK
    assert "booted, primary" in prompt.out
    assert "vda2" in prompt.out
    assert prompt.json("slot", "list")["slots"][1]["slot"] == "image"
