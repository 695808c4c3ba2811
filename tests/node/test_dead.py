"""Dead systems of every kind: the node ends where the boot protocol says, without hands, and `status` explains it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lab.images import CLOUD_KERNEL, KERNEL, LOADERS
from tests.lab.node import RESET_BY_WATCHDOG
from tests.node import dead
from tests.node.dead import Seen
from tests.node.each import with_each_loader

# What the node calls its watchdog, and what the console shows when it has barked.
WATCHDOG = ("Software Watchdog", "softdog: Initiating system reboot") if KERNEL == CLOUD_KERNEL else \
    ("i6300ESB timer", RESET_BY_WATCHDOG)
IN_MAKE_TEST = ("image-panics", "systemd-boot")


def cases(tell: Any, *rows: tuple[Any, ...]) -> Any:
    """Parameters (case, loader, expectation…): the story of each row (case, expectation…) with each loader."""
    return [pytest.param(row[0], loader, *row[1:], id=f"{row[0]}-{loader}", marks=[
        pytest.mark.story(tell=tell, case=row[0], loader=loader),
        *([] if (row[0], loader) == IN_MAKE_TEST else [pytest.mark.long])]) for row in rows for loader in LOADERS]


def slots(status: dict[str, Any]) -> dict[str, tuple[int, str]]:
    return {name: (slot["release"], slot["state"]) for name, slot in status["slots"].items()}


@pytest.mark.fault(16)
@pytest.mark.parametrize(("case", "loader", "boots", "sign"), cases(
    dead.reinstall,
    ("image-panics", 2, "Kernel panic"),
    ("image-panics-each-time", 6, "Kernel panic"),
    ("image-hangs", 2, WATCHDOG[1]),
    ("image-root-does-not-mount", 2, "image slot on .* cannot be mounted"),
    ("image-agent-crashes", 2, "this system could not start"),
    ("image-unhealthy", 2, ""),
))
def test_a_dead_image_leads_back_to_the_old_system(told: Seen, case: str, loader: str, boots: int, sign: str) -> None:
    status, note = told.status, told.status["transaction"]["note"]
    assert (status["current"], status["boot"]["primary"], status["boot"]["armed"]) == ("working", "working", None)
    assert slots(status)["working"] == (1, "ok")
    assert told.boots == boots
    assert "boot-image" in note and ("image slot did not come up" in note or "self-check" in note), note
    assert note in told.text
    assert status["facts"]["watchdog"] == WATCHDOG[0]
    _console_shows(sign, told)


@pytest.mark.fault(17)
@pytest.mark.parametrize(("case", "loader", "boots", "sign"), cases(
    dead.reinstall,
    ("working-has-no-init", 7, "no init on"),
    ("working-hangs", 3, WATCHDOG[1]),
    ("working-agent-crashes", 3, "this system could not start"),
    ("working-unhealthy", 3, ""),
))
def test_a_dead_new_system_ends_in_the_image_slot(told: Seen, case: str, loader: str, boots: int, sign: str) -> None:
    status, note = told.status, told.status["transaction"]["note"]
    assert (status["current"], status["boot"]["primary"], status["boot"]["armed"]) == ("image", "image", None)
    assert slots(status)["image"] == (2, "ok")
    assert told.boots == boots
    assert "boot-working" in note and ("working slot did not come up" in note or "health-check" in note), note
    assert note in told.text
    assert "stays in the image slot" in status["advice"] and "k8r-agent reinstall" in told.text
    _console_shows(sign, told)


@pytest.mark.fault(32)
@pytest.mark.parametrize(("case", "loader", "why"), cases(
    dead.death,
    ("no-init", "used up its boot tries"),
    ("no-superblock", "used up its boot tries"),
    ("truncated-kernel", "kernel or initrd is missing or damaged"),
    ("missing-kernel", "kernel or initrd is missing or damaged"),
))
def test_a_working_slot_that_dies_later(told: Seen, case: str, loader: str, why: str) -> None:
    status = told.status
    assert (status["current"], status["boot"]["primary"]) == ("image", "working")
    assert why in status["advice"] and "k8r-agent reinstall" in told.text
    if case in ("no-init", "no-superblock"):
        assert told.boots == 6  # three tries, the image slot, one more chance, the image slot
    assert told.later["current"] == told.later["boot"]["primary"] == "working"
    assert slots(told.later) == {"working": (1, "ok"), "image": (1, "ok")}


@pytest.mark.long
@pytest.mark.parametrize("told", indirect=True, argvalues=[] if KERNEL == CLOUD_KERNEL else [
    pytest.param("systemd-boot", marks=pytest.mark.story(tell=dead.stopped, loader="systemd-boot"))])
def test_a_kernel_that_stopped_is_left_by_the_watchdog_of_the_machine(told: Seen) -> None:
    """In `make watchdog`: the cloud kernel's own does not bark any more then, which is what status says."""
    assert (told.status["current"], told.status["boot"]["primary"]) == ("working", "working")
    assert RESET_BY_WATCHDOG in told.console and "Kernel panic" in told.console and told.boots == 1


@with_each_loader(dead.rot)
class TestRot:
    @pytest.mark.fault(23)
    @pytest.mark.parametrize(("what", "why"), [("kernel is truncated", "kernel or initrd is missing or damaged"),
                                               ("kernel is missing", "kernel or initrd is missing or damaged"),
                                               ("image has a wrong byte", "image slot is damaged")])
    def test_is_found_before_the_node_relies_on_it(self, told: dict[str, Seen], what: str, why: str) -> None:
        seen = told[what]
        assert (seen.status["current"], seen.status["boot"]["primary"]) == ("working", "working")
        assert why in seen.text and seen.boots == 0

    def test_an_update_mends_it(self, told: dict[str, Seen]) -> None:
        assert slots(told["mended"].status)["image"] == (2, "ok")


@with_each_loader(dead.armed)
class TestArmed:
    def test_it_is_armed(self, told: dict[str, dict[str, Any]]) -> None:
        assert told["armed"]["boot"]["armed"] == "image"

    @pytest.mark.fault(41)
    @pytest.mark.parametrize("when", ["after an update", "after a run", "after a reboot", "after a cancel"])
    def test_and_forgotten(self, told: dict[str, dict[str, Any]], when: str) -> None:
        status = told[when]
        assert (status["current"], status["boot"]["primary"], status["boot"]["armed"]) == ("working", "working", None)
        assert slots(status) == {"working": (1, "ok"), "image": (2, "ok")}

    def test_it_is_said(self, told: dict[str, dict[str, Any]]) -> None:
        said = [event["message"] for event in told["after a run"]["events"]]
        assert "a boot was armed, but nothing is going on: disarmed" in said, said

    def test_a_cancel_in_the_image_slot_leaves_the_old_system(self, told: dict[str, dict[str, Any]]) -> None:
        assert told["in the image slot"]["current"] == "image"
        assert told["after a cancel"]["transaction"]["state"] == "cancelled"
        assert slots(told["after a cancel"])["working"] == (1, "ok")


@with_each_loader(dead.lost_boots)
class TestLostBoots:
    @pytest.mark.fault(16)
    def test_a_release_that_was_never_booted_is_left_for_the_working_slot(self, told: Seen) -> None:
        assert (told.status["current"], told.status["boot"]["primary"]) == ("working", "working")
        assert told.boots == 4 and told.console.count("Kernel panic - not syncing") == 3


@with_each_loader(dead.emergency)
class TestEmergency:
    def test_where_no_slot_is_left_the_node_lets_its_owner_in(self, told: Seen) -> None:
        assert (told.status["current"], told.status["boot"]["tries_left"]) == ("working", 0)
        assert told.boots >= 3


def _console_shows(sign: str, told: Seen) -> None:
    import re

    assert re.search(sign, told.console), told.console[-2000:]
