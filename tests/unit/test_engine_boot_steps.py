"""Boots are observed, never assumed; the pointer moves only from where it may."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from k8r_agent.errors import K8rError, Refused
from k8r_agent.model.slots import Slot, SlotState, SlotStatus
from k8r_agent.model.txn import Transaction
from k8r_agent.ports.step import World
from k8r_agent.steps.boot_steps import BootImage, BootWorking, Disarm, HoldImage, SetPrimaryImage
from tests.fakes.simple import SimpleBoot, SimpleMachine, simple_world

IMAGE, WORKING = Slot.IMAGE, Slot.WORKING

def armed_world() -> World:
    world = simple_world()
    for slot in Slot:
        world.slots.set_status(slot, SlotStatus(state=SlotState.OK, txn="t1"))
    world.txn = Transaction(id="t1", task="reinstall", steps=())

    def remember(name: str, value: str) -> Transaction:
        assert world.txn
        return replace(world.txn, facts={**world.txn.facts, name: value})

    world.remember_fact = remember
    return world


def apply(step: Any, world: World) -> None:
    try:
        step.apply(world)
    except Exception as stop:
        if type(stop).__name__ != "RebootRequested":
            raise


def power_on(world: World, *, works: bool = True) -> None:
    assert isinstance(world.boot, SimpleBoot) and isinstance(world.machine, SimpleMachine)
    world.boot.power_on(works=works)
    world.machine.boot += 1


def test_a_boot_is_done_in_a_later_boot_only() -> None:
    world, step = armed_world(), BootImage()
    assert not step.done(world)
    apply(step, world)
    assert world.boot.state().armed is IMAGE and not step.done(world)
    assert "has not rebooted" in step.explain(world)
    power_on(world)
    assert step.done(world)


def test_a_boot_that_fell_back_explains_itself() -> None:
    world, step = armed_world(), BootImage()
    apply(step, world)
    power_on(world, works=False)
    assert not step.done(world)
    assert step.explain(world) == "the image slot did not come up; the node fell back to working"


def test_started_in_the_image_slot_there_is_nothing_to_boot() -> None:
    world = armed_world()
    world.boot.try_once(IMAGE)
    power_on(world)
    assert BootImage().done(world)


def test_running_from_working_is_not_having_booted_the_new_one() -> None:
    assert not BootWorking().done(armed_world())


@pytest.mark.parametrize("step", [BootImage(), BootWorking()])
def test_a_slot_without_kernel_or_content_is_not_booted(step: Any) -> None:
    world = armed_world()
    world.boot.kept.pop(step.slot)  # type: ignore[attr-defined]
    with pytest.raises(K8rError, match="not booted"):
        step.apply(world)
    world = armed_world()
    world.slots.set_status(step.slot, SlotStatus(state=SlotState.PENDING, txn="t1"))
    with pytest.raises(K8rError, match="not booted"):
        step.apply(world)
    assert world.boot.state().armed is None


def test_a_working_slot_of_another_transaction_is_not_booted() -> None:
    world = armed_world()
    world.slots.set_status(WORKING, SlotStatus(state=SlotState.OK, txn="t0"))
    with pytest.raises(K8rError, match="has not written it"):
        BootWorking().apply(world)


def test_the_image_slot_becomes_primary_only_from_itself() -> None:
    world = armed_world()
    with pytest.raises(Refused):
        SetPrimaryImage().apply(world)
    world.boot.try_once(IMAGE)
    power_on(world)
    SetPrimaryImage().apply(world)
    assert SetPrimaryImage().done(world)


def test_after_a_failure_the_image_slot_is_held_only_past_the_point_of_no_return() -> None:
    world, step = armed_world(), HoldImage()
    world.boot.try_once(IMAGE)
    power_on(world)
    assert step.done(world)
    assert world.txn
    world.txn = replace(world.txn, tries={"set-primary-image": 1})
    assert not step.done(world)
    world.slots.set_status(WORKING, SlotStatus(state=SlotState.OK, txn="t0"))
    assert step.done(world), "the old system is whole: a hook before that point said no"
    world.slots.set_status(WORKING, SlotStatus(state=SlotState.PENDING, txn="t0"))
    assert not step.done(world)
    step.apply(world)
    assert world.boot.state().primary is IMAGE


def test_disarm() -> None:
    world = armed_world()
    world.boot.try_once(IMAGE)
    assert not Disarm().done(world)
    Disarm().apply(world)
    assert Disarm().done(world)
