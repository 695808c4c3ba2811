"""Faults of a whole node that need no crash: dead and sick systems, two wishes at once, a full state partition. The
product's engine, tasks, steps and boot backends over the disks of the crash matrix."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import pytest

from k8r_agent import runner
from k8r_agent.boot import loaderfiles
from k8r_agent.config.settings import BootSettings
from k8r_agent.engine import Outcome
from k8r_agent.model.slots import Slot, SlotState
from k8r_agent.store.events import EventLog
from tests.crash.explorer import Explorer
from tests.crash.scenarios import (
    DeadImage,
    DeadWorking,
    MakeLoader,
    Unhealthy,
    UnhealthyImage,
    asked,
    judge,
    last,
    reinstalled,
    settled,
    stranded,
    updated,
)
from tests.fakes.bootfiles import FakeBootFiles
from tests.fakes.golden import assets_of
from tests.fakes.loaders import LOADERS
from tests.fakes.prompt import Prompt
from tests.fakes.world import Behaviour, FakeNode


@pytest.fixture(params=["systemd-boot", "grub"])
def loader(request: pytest.FixtureRequest) -> MakeLoader:
    return LOADERS[request.param]


def to_the_end(node: FakeNode) -> Outcome | None:
    while True:
        if node.running is None:
            node.power_on()
        outcome = node.session()
        if outcome is not Outcome.REBOOTING:
            return outcome
        node.shut_down()


def ended(node: FakeNode, *, after_failure: dict[int, str]) -> None:
    verdict = judge(task="reinstall", done=2, failed=after_failure, always=True)
    Explorer(verdict, ()).explore(node)


@pytest.mark.fault(16)
def test_a_new_kernel_that_hangs(loader: MakeLoader) -> None:
    ended(asked(updated(loader, DeadImage()), "reinstall"), after_failure={1: "the old system runs"})
    ended(asked(updated(loader, DeadWorking()), "reinstall"), after_failure={0: "stays in the image slot"})


@pytest.mark.fault(17)
def test_a_new_system_that_is_not_well(loader: MakeLoader) -> None:
    ended(asked(updated(loader, UnhealthyImage()), "reinstall"), after_failure={1: "the old system runs"})
    ended(asked(updated(loader, Unhealthy()), "reinstall"), after_failure={0: "stays in the image slot"})


@pytest.mark.fault(20)
def test_a_release_that_was_left_is_not_newer(loader: MakeLoader, tmp_path: Path) -> None:
    """The daily check: after a rollback from release 2 only a third one is news."""
    node = asked(reinstalled(loader), "rollback", source="release-1")
    assert to_the_end(node) is Outcome.DONE and node._content(Slot.WORKING) == node._content(Slot.IMAGE) == 1
    assert Prompt(tmp_path, world=node.world()).node.newest_release() == 2


@pytest.mark.fault(20)
def test_a_release_that_never_got_well_is_not_taken_again(loader: MakeLoader, tmp_path: Path) -> None:
    """The node went back to release 1, and no higher one was ever confirmed: to the daily check release 2 is newer."""
    node = asked(stranded(loader), "rescue", source="release-1", release="1")
    assert to_the_end(node) is Outcome.DONE and node._content(Slot.WORKING) == node._content(Slot.IMAGE) == 1
    prompt = Prompt(tmp_path, world=node.world())
    assert prompt.node.newest_release() == 1 and [bad.release for bad in prompt.node.quarantined()] == [2]
    for args, content in (({}, 1), ({"force": "yes"}, 2)):
        node.machine.sleep(1)
        runner.submit(node.world(), "update", {"source": "release-2", **args}, requested_by="the timer")
        to_the_end(node)
        assert node._content(Slot.IMAGE) == content, last(node).note


@pytest.mark.fault(41)
def test_an_update_waits_for_a_try_boot_to_be_confirmed(loader: MakeLoader) -> None:
    node = asked(updated(loader), "reinstall")
    for slot in (Slot.IMAGE, Slot.WORKING):
        assert node.session() is Outcome.REBOOTING
        node.shut_down()
        node.power_on()
        assert node.running is slot
    assert node.loader.decided() is Slot.IMAGE, "the new system is not confirmed yet"
    node.machine.sleep(1)
    runner.submit(node.world(), "update", {"source": "release-2", "force": "yes"}, requested_by="operator")
    assert to_the_end(node) is Outcome.DONE
    order = [(e.task, e.step) for e in reversed(EventLog(node.files).read()) if e.step and e.kind == "succeeded"]
    confirmed, written = -order.index(("reinstall", "confirm")), -order.index(("update", "write-image"))
    assert confirmed < written, "the image slot was written while the new system was on trial"
    assert node.loader.decided() is Slot.WORKING and node._content(Slot.IMAGE) == 2


class Armed(Behaviour):
    """Nothing special; the arming is what matters."""


@pytest.mark.fault(41)
def test_an_update_forgets_a_boot_that_was_armed(loader: MakeLoader) -> None:
    node = settled(loader, Armed())
    node.power_on()
    backend = node.loader.backend(node.running)
    backend.try_once(Slot.IMAGE)
    runner.submit(node.world(), "update", {"source": "release-2"}, requested_by="operator")
    written: list[Slot | None] = []
    node.watch = lambda n, name: written.append(
        n.loader.backend(n.running).state().armed) if name == "disk:p2:write" else None
    assert node.session() is Outcome.DONE
    assert written and set(written) == {None}, "the slot was written while a boot of it was armed"


@pytest.mark.fault(7)
def test_no_room_to_note_anything(loader: MakeLoader) -> None:
    """The image goes straight into its slot, so a full state partition is all that can be full: nothing is begun,
    and with room again the same request is done."""
    node = asked(settled(loader), "update", source="release-2")
    node.files.fault = errno.ENOSPC
    with pytest.raises(Exception, match="No space left"):
        node.session()
    assert node.world().slots.status(Slot.IMAGE).state is SlotState.OK and node._content(Slot.IMAGE) == 1
    node.shut_down()
    node.power_on()
    node.files.fault = 0
    assert to_the_end(node) is Outcome.DONE and node._content(Slot.IMAGE) == 2


@pytest.mark.parametrize("task", ["update", "rollback"])
def test_no_room_for_boot_assets_costs_no_image_slot(loader: MakeLoader, task: str) -> None:
    """A person's files on the boot partition: what could be booted before can be booted afterwards."""
    node = asked(reinstalled(loader) if task == "rollback" else settled(loader), task,
                 source="release-1" if task == "rollback" else "release-2")
    files, content = node.loader.files, node._content(Slot.IMAGE)
    assert isinstance(files, FakeBootFiles)
    files.size = files._used() + 4 * 4096
    assert to_the_end(node) is Outcome.FAILED
    world = node.world()
    assert world.slots.status(Slot.IMAGE).state is SlotState.OK and node._content(Slot.IMAGE) == content
    assert world.boot.state().image_offered
    assert all(world.boot.assets(slot) is not None for slot in Slot)
    assert "do not fit the boot partition" in last(node).note


def test_a_boot_partition_that_was_copied_anew_costs_no_working_slot(loader: MakeLoader) -> None:
    """Its decision says image, and nothing on it says that there ever was a state: like a disk that was never set up.
    What is on the disk is found again, and a first boot that nobody asked for writes over nothing."""
    node = settled(loader)
    node.shut_down()
    files = node.loader.files
    assert isinstance(files, FakeBootFiles)
    files.medium = loaderfiles.initial_files(node.loader.backend(None).name, assets_of(1), efi=b"EFI program")
    files.live = dict(files.medium)
    node.power_on()
    assert node.running is Slot.IMAGE
    before = node._content(Slot.WORKING)
    assert before == 1
    for _ in range(3):
        outcome = node.session()
        assert outcome in (Outcome.FAILED, None) and node._content(Slot.WORKING) == before
        assert node.files.persistent(), "the state partition is taken up again"
        node.shut_down()
        node.power_on()
    last = EventLog(node.files).read()
    assert any("is not written by a first boot" in event.message for event in last)
    runner.submit(node.world(), "first-boot", {}, requested_by="test")
    assert node.session() is Outcome.FAILED and node._content(Slot.WORKING) == before
    assert node.disks.mkfs_runs == 1


def lost_boots(node: FakeNode) -> FakeNode:
    """Power comes and goes until the loader has given the working slot up."""
    while node.running is not Slot.IMAGE:
        node.shut_down()
        node.power_on()
    return node


def test_each_time_that_power_comes_and_goes_a_sound_working_slot_gets_a_chance(loader: MakeLoader) -> None:
    node = settled(loader)
    for _ in range(2):
        lost_boots(node)
        to_the_end(node)
        assert (node.running, node.loader.decided()) == (Slot.WORKING, Slot.WORKING)
        assert node.loader.backend(node.running).state().tries_left == node.settings.boot.tries
        node.shut_down()
        to_the_end(node)


@pytest.mark.parametrize("emptied", [True, False])
def test_a_lost_boot_entry_costs_a_boot_and_no_working_slot(emptied: bool) -> None:
    """A FAT that was mended elsewhere. Not even where the node would reinstall a dead working slot by itself."""
    node = settled(LOADERS["systemd-boot"])
    node.settings = replace(node.settings, boot=BootSettings(when_working_dead="reinstall"))
    node.shut_down()
    files = node.loader.files
    assert isinstance(files, FakeBootFiles)
    for held in (files.medium, files.live):
        for name in [name for name in held if name.startswith("loader/entries/k8r-working")]:
            held.pop(name)
            if emptied:
                held[name] = b""
    node.power_on()
    assert node.running is Slot.IMAGE
    to_the_end(node)
    assert (node.running, last(node).task) == (Slot.WORKING, "first-boot")
    assert node.loader.backend(node.running).state().tries_left == node.settings.boot.tries


@pytest.mark.fault(16)
def test_a_release_that_was_never_booted_is_no_dead_end(loader: MakeLoader) -> None:
    """An update brought one that does not come up; then the working slot, which is sound, loses its tries."""
    node = updated(loader, DeadImage())
    for _ in range(node.settings.boot.tries):
        node.power_on()
        assert node.running is Slot.WORKING
        node.shut_down()
    to_the_end(node)
    assert (node.running, node.loader.decided()) == (Slot.WORKING, Slot.WORKING)
    assert node.loader.backend(node.running).state().tries_left == node.settings.boot.tries


def test_boots_lost_after_a_rescue_cost_the_confirmed_system_nothing(loader: MakeLoader) -> None:
    """The image slot follows after the confirmation. Whoever comes up in it then cannot write it, which ends the task;
    the working slot gets the chance that any other that lost its boots would get."""
    class PowerCut(BaseException):
        pass

    def watch(node: FakeNode, name: str) -> None:
        if last(node).tries.get("write-image"):
            raise PowerCut

    node = asked(stranded(loader), "rescue", source="release-1", release="1")
    node.watch = watch
    with pytest.raises(PowerCut):
        to_the_end(node)
    node.watch = None
    assert node.loader.decided() is Slot.WORKING and last(node).facts["confirmed"] == "yes"
    lost_boots(node)
    assert to_the_end(node) is not Outcome.DONE
    assert (node.running, node.loader.decided()) == (Slot.WORKING, Slot.WORKING), last(node).note
