"""What the units of a boot call, and confirm and reboot, which people call."""

from __future__ import annotations

import errno
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from k8r_agent.errors import Exit
from k8r_agent.model.slots import Slot, SlotState, SlotStatus
from k8r_agent.steps import duties
from tests.fakes.prompt import Prompt


@dataclass
class Check:
    name: str
    ok: bool
    detail: str


@pytest.fixture
def prompt(tmp_path: Path) -> Prompt:
    return Prompt(tmp_path)


def boot(prompt: Prompt, **more: object) -> None:
    prompt.world.boot.now = replace(prompt.world.boot.now, **more)  # type: ignore[attr-defined]


def sick(prompt: Prompt, until: float = float("inf"), *, name: str = "units", detail: str = "dbus failed") -> None:
    """Something is down until that many seconds were waited."""
    prompt.node.runner = None
    prompt.world.machine.health = lambda: (  # type: ignore[method-assign]
        Check("ssh", True, "port 22"), Check(name, prompt.node.slept >= until, detail))


def reboots(prompt: Prompt) -> int:
    return prompt.world.machine.reboots  # type: ignore[attr-defined,no-any-return]


def start_of_boot(prompt: Prompt) -> None:
    prompt.world.machine.clock.time -= 400.0  # type: ignore[attr-defined]


@pytest.mark.parametrize("slot, left", [(Slot.WORKING, 0), (Slot.IMAGE, 1)])
def test_a_boot_that_completes_forgets_the_chance_that_was_given(prompt: Prompt, slot: Slot, left: int) -> None:
    """The runner looked earlier, when the loader had just taken a try."""
    duties.count_chance(prompt.world.files)
    boot(prompt, current=slot, tries_left=2)
    assert prompt.run("boot", "confirm") == Exit.OK
    assert duties.counters(prompt.world.files).chances == left


def test_that_nothing_can_be_forgotten_does_not_spoil_the_boot(prompt: Prompt) -> None:
    duties.count_chance(prompt.world.files)
    prompt.world.files.fault = errno.EIO  # type: ignore[attr-defined]
    boot(prompt, tries_left=2)
    assert prompt.run("boot", "confirm") == Exit.OK and prompt.world.boot.state().tries_left == 3
    assert "could not be forgotten" in prompt.err


def test_health_is_good_at_once(prompt: Prompt) -> None:
    assert prompt.run("boot", "health") == Exit.OK


def test_health_waits_until_all_is_well(prompt: Prompt) -> None:
    start_of_boot(prompt)
    sick(prompt, until=60)
    assert prompt.run("boot", "health") == Exit.OK
    assert prompt.err.count("waiting for units: dbus failed") == 1
    assert "ssh: port 22" in prompt.out


def test_health_gives_up_before_the_deadline(prompt: Prompt) -> None:
    start_of_boot(prompt)
    sick(prompt)
    assert prompt.run("boot", "health") == Exit.FAILED
    assert "error[unhealthy]" in prompt.err and "dbus failed" in prompt.err
    assert prompt.node.slept < 600


def test_health_that_is_asked_late_is_waited_for_too(prompt: Prompt) -> None:
    """Container images took longer than the deadline, which did not count that."""
    prompt.world.machine.clock.time += 900.0  # type: ignore[attr-defined]
    sick(prompt, until=30)
    assert prompt.run("boot", "health") == Exit.OK


@pytest.mark.fault(18)
def test_a_dead_network_is_waited_for_and_then_put_up_with(prompt: Prompt) -> None:
    start_of_boot(prompt)
    sick(prompt, name="network", detail="no default route")
    assert prompt.run("boot", "health") == Exit.OK
    assert "waiting for network: no default route" in prompt.err
    assert 30 < prompt.node.slept <= 60


def test_confirm_of_a_boot_refills_the_primary_only(prompt: Prompt) -> None:
    boot(prompt, tries_left=1)
    assert prompt.run("boot", "confirm") == Exit.OK
    assert prompt.world.boot.state().tries_left == 3
    boot(prompt, tries_left=1, primary=Slot.IMAGE)
    assert prompt.json("boot", "confirm")["refilled"] is False
    assert prompt.world.boot.state().tries_left == 1 and not prompt.world.boot.came_up  # type: ignore[attr-defined]
    boot(prompt, current=Slot.IMAGE, primary=Slot.WORKING, tries_left=0)
    assert prompt.json("boot", "confirm")["refilled"] is False
    assert prompt.world.boot.state().tries_left == 0 and prompt.world.boot.came_up == 1  # type: ignore[attr-defined]


def test_deadline_is_content_with_a_complete_boot(prompt: Prompt) -> None:
    prompt.node.complete = True
    assert prompt.run("boot", "deadline") == Exit.OK
    assert reboots(prompt) == 0


@pytest.mark.parametrize(("current", "primary", "tries", "persistent", "expected", "says"), [
    (Slot.WORKING, Slot.WORKING, 2, True, 1, "rebooting"),
    (Slot.WORKING, Slot.IMAGE, 2, True, 1, "rebooting"),
    (Slot.IMAGE, Slot.WORKING, 2, True, 1, "rebooting"),
    (Slot.IMAGE, Slot.IMAGE, 2, True, 0, "nothing behind it"),
    (Slot.WORKING, Slot.WORKING, 2, False, 0, "no attempt can be counted"),
    (Slot.WORKING, Slot.WORKING, None, True, 0, "counts no tries"),
    (None, Slot.WORKING, 2, True, 0, "not booted from one of its slots"),
])
def test_deadline_leaves_a_boot_only_where_that_leads_somewhere(
        prompt: Prompt, current: Slot | None, primary: Slot, tries: int | None, persistent: bool, expected: int,
        says: str) -> None:
    start_of_boot(prompt)
    prompt.node.runner = None
    boot(prompt, current=current, primary=primary, tries_left=tries)
    prompt.world.files.on_partition = persistent  # type: ignore[attr-defined]
    assert prompt.run("boot", "deadline") == Exit.OK
    assert 590 < prompt.node.slept < 601
    assert reboots(prompt) == expected
    assert says in prompt.err
    assert says in prompt.node.events.read()[-1].message


def test_deadline_says_what_is_not_well(prompt: Prompt) -> None:
    start_of_boot(prompt)
    sick(prompt, name="ssh", detail="port 22 is closed")
    assert prompt.run("boot", "deadline") == Exit.OK
    assert "(ssh: port 22 is closed); rebooting" in prompt.node.events.read()[-1].message


def test_deadline_does_not_leave_a_boot_for_a_half_written_image_slot(prompt: Prompt) -> None:
    start_of_boot(prompt)
    prompt.node.runner = None
    boot(prompt, tries_left=0, image_offered=False)
    assert prompt.run("boot", "deadline") == Exit.OK
    assert reboots(prompt) == 0 and "half written" in prompt.err


@pytest.mark.parametrize("tries", [0, 3])
def test_deadline_does_not_leave_a_boot_behind_which_is_a_damaged_image_slot(prompt: Prompt, tries: int) -> None:
    start_of_boot(prompt)
    prompt.node.runner = None
    boot(prompt, tries_left=tries)
    prompt.world.boot.kept.pop(Slot.IMAGE)  # type: ignore[attr-defined]
    assert prompt.run("boot", "deadline") == Exit.OK
    assert reboots(prompt) == 0 and "missing or damaged" in prompt.err


def test_the_configured_deadline(prompt: Prompt) -> None:
    prompt.configure('[boot]\ndeadline = "3min"\n')
    start_of_boot(prompt)
    prompt.node.runner = None
    prompt.run("boot", "deadline")
    assert 170 < prompt.node.slept < 181


def test_the_deadline_waits_for_container_images(prompt: Prompt) -> None:
    start_of_boot(prompt)
    prompt.node.runner, prompt.node.starting = None, 900.0
    assert prompt.run("boot", "deadline") == Exit.OK
    assert 1490 < prompt.node.slept < 1501 and reboots(prompt) == 1


# confirm


def test_confirm_makes_the_running_slot_the_primary(prompt: Prompt) -> None:
    assert prompt.run("confirm") == Exit.OK
    assert "already" in prompt.out
    assert prompt.run("confirm", "--exit-77") == Exit.NOTHING_TO_DO
    boot(prompt, primary=Slot.IMAGE, tries_left=0)
    assert prompt.run("confirm", "--dry-run") == Exit.OK
    assert prompt.world.boot.state().primary is Slot.IMAGE
    assert prompt.run("confirm") == Exit.OK
    assert (prompt.world.boot.state().primary, prompt.world.boot.state().tries_left) == (Slot.WORKING, 3)


def test_confirm_refuses_what_is_not_well(prompt: Prompt) -> None:
    boot(prompt, primary=Slot.IMAGE)
    sick(prompt)
    assert prompt.run("confirm") == Exit.FAILED
    assert "error[unhealthy]" in prompt.err
    assert prompt.world.boot.state().primary is Slot.IMAGE


def test_an_operator_may_put_up_with_what_is_not_well(prompt: Prompt) -> None:
    """And the next boots of that slot pass for complete, or the override would end with its tries."""
    boot(prompt, primary=Slot.IMAGE)
    prompt.world.slots.set_status(Slot.WORKING, SlotStatus(state=SlotState.OK, release=2))
    sick(prompt)
    assert prompt.run("confirm") == Exit.FAILED and "--force" in prompt.err
    assert prompt.json("confirm", "--force")["accepted"] == ["units"]
    assert prompt.world.boot.state().primary is Slot.WORKING
    assert prompt.world.slots.release_floor() == 2
    assert "although it is not well (units: dbus failed)" in prompt.node.events.read()[-1].message
    start_of_boot(prompt)
    assert prompt.run("boot", "health") == Exit.OK and prompt.node.slept == 0
    assert "units: dbus failed" in prompt.out
    prompt.run("status")
    assert "! the working slot was confirmed although it was not well: units" in prompt.out
    sick(prompt, name="ssh")
    assert prompt.run("boot", "health") == Exit.FAILED


def test_what_was_put_up_with_counts_for_that_content_only(prompt: Prompt) -> None:
    sick(prompt)
    assert prompt.run("confirm", "--force") == Exit.OK
    assert prompt.world.slots.status(Slot.WORKING).accepted == ("units",)
    assert prompt.run("confirm") == Exit.OK and "already" in prompt.out
    prompt.world.slots.set_status(Slot.WORKING, SlotStatus(state=SlotState.OK, release=3))
    assert prompt.world.slots.status(Slot.WORKING).accepted == ()


def test_force_is_for_the_working_slot_and_for_a_node_that_remembers(prompt: Prompt) -> None:
    sick(prompt)
    boot(prompt, current=Slot.IMAGE, primary=Slot.WORKING)
    assert prompt.run("confirm", "--force", "--yes") == Exit.FAILED and "only the working slot" in prompt.err
    boot(prompt, current=Slot.WORKING, primary=Slot.IMAGE)
    prompt.world.files.on_partition = False  # type: ignore[attr-defined]
    assert prompt.run("confirm", "--force") == Exit.FAILED and "error[no-state]" in prompt.err
    assert prompt.world.boot.state().primary is Slot.IMAGE


def test_confirm_of_the_image_slot_wants_a_yes(prompt: Prompt) -> None:
    boot(prompt, current=Slot.IMAGE)
    assert prompt.run("confirm") == Exit.FAILED
    assert "--yes" in prompt.err
    assert prompt.run("confirm", "--yes") == Exit.OK
    assert prompt.world.boot.state().primary is Slot.IMAGE


def test_confirm_on_a_rescue_stick(prompt: Prompt) -> None:
    boot(prompt, current=None)
    assert prompt.run("confirm") == Exit.FAILED
    assert "error[boot]" in prompt.err


# reboot


def test_reboot(prompt: Prompt) -> None:
    assert prompt.run("reboot", "--dry-run") == Exit.OK
    assert reboots(prompt) == 0
    assert prompt.run("reboot") == Exit.OK
    assert reboots(prompt) == 1
    assert prompt.out == "rebooting into the working slot\n"


def test_reboot_into_the_other_slot_once(prompt: Prompt) -> None:
    assert prompt.json("reboot", "--slot", "image") == {
        "format_version": 1, "slot": "image", "once": True, "rebooting": True}
    assert prompt.world.boot.state().armed is Slot.IMAGE
    assert prompt.run("reboot", "--slot", "working") == Exit.OK
    assert prompt.world.boot.state().armed is None


def test_reboot_never_into_what_cannot_boot(prompt: Prompt) -> None:
    prompt.world.slots.set_status(Slot.IMAGE, SlotStatus(state=SlotState.PENDING))
    assert prompt.run("reboot", "--slot", "image") == Exit.FAILED
    assert "half written" in prompt.err
    prompt.world.slots.set_status(Slot.IMAGE, SlotStatus(state=SlotState.OK))
    del prompt.world.boot.kept[Slot.IMAGE]  # type: ignore[attr-defined]
    assert prompt.run("reboot", "--slot", "image") == Exit.FAILED
    assert "slot install-assets image" in prompt.err
    assert reboots(prompt) == 0


def test_a_deadline_that_the_timer_would_not_keep_is_refused(prompt: Prompt) -> None:
    timer = (Path(__file__).parents[2] / "units/k8r-boot-deadline.timer").read_text()
    assert "OnBootSec=2min" in timer
    prompt.configure('[boot]\ntries = 2\ndeadline = "90s"\n')
    assert prompt.run("config", "check") == Exit.BAD_CONFIG
    assert "agent.toml:3: boot.deadline" in prompt.err and "at least 2min" in prompt.err
    assert prompt.node.lenient()[0].boot.deadline == 600
