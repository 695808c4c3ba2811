"""Kernels and initrds that rotted on the boot partition: none that a loader could start is started."""

from __future__ import annotations

import pytest

from k8r_agent.errors import Protected
from k8r_agent.model.slots import Slot
from tests.fakes.assets import kernel_of
from tests.fakes.firmware import LOADERS
from tests.fakes.world import Violation
from tests.unit.test_boot_backends import OLD, Firmware, active, settled

both = pytest.mark.parametrize("kind", LOADERS)


def rot(firmware: Firmware, slot: Slot, name: str) -> None:
    """In place: as long as before, and headers that a loader looks at are sound."""
    path = f"{active(firmware, slot)}/{name}"
    firmware.files.medium[path] = firmware.files.medium[path][:-1] + b"?"


@both
def test_a_damaged_kernel_is_no_target(kind: type[Firmware]) -> None:
    firmware = settled(kind)
    firmware.files.rot["image/a/vmlinuz"] = b"old ker"
    backend = firmware.backend(Slot.WORKING)
    assert backend.assets(Slot.IMAGE) is None
    with pytest.raises(Protected, match="damaged"):
        backend.try_once(Slot.IMAGE)
    with pytest.raises(Protected, match="damaged"):
        backend.set_primary(Slot.IMAGE)


@both
def test_a_kernel_that_cannot_be_loaded_leads_to_the_other_slot(kind: type[Firmware]) -> None:
    for name in ("vmlinuz", "initrd.img"):
        for data in (b"", None):
            firmware = settled(kind)
            path = f"{active(firmware, Slot.WORKING)}/{name}"
            if data is None:
                del firmware.files.medium[path]
            else:
                firmware.files.medium[path] = data
            assert firmware.choose() == (Slot.IMAGE, kernel_of(OLD))


@both
@pytest.mark.parametrize("name", ["vmlinuz", "initrd.img"])
def test_a_damaged_image_slot_as_the_primary_does_not_boot_for_ever(kind: type[Firmware], name: str) -> None:
    """No try is counted then: whoever boots it looks at the hashes first."""
    firmware = settled(kind)
    firmware.backend(Slot.IMAGE).set_primary(Slot.IMAGE)
    firmware.files.medium[f"{active(firmware, Slot.IMAGE)}/{name}"] = b"rotten"
    assert firmware.choose() == (Slot.WORKING, kernel_of(OLD))
    firmware.files.medium[f"{active(firmware, Slot.WORKING)}/vmlinuz"] = b""
    with pytest.raises(Violation, match="neither"):
        firmware.choose()


@both
def test_a_rotten_image_kernel_is_not_started_for_want_of_tries_or_because_it_was_armed(kind: type[Firmware]) -> None:
    """It would hang before any watchdog runs."""
    firmware = settled(kind)
    firmware.backend(Slot.WORKING).try_once(Slot.IMAGE)
    rot(firmware, Slot.IMAGE, "vmlinuz")
    assert [firmware.choose() for _ in range(6)] == [(Slot.WORKING, kernel_of(OLD))] * 6
    firmware = settled(kind)
    assert [firmware.choose()[0] for _ in range(4)] == [Slot.WORKING] * 3 + [Slot.IMAGE]
    rot(firmware, Slot.IMAGE, "vmlinuz")
    assert [firmware.choose() for _ in range(6)] == [(Slot.WORKING, kernel_of(OLD))] * 6


@both
def test_a_rotten_image_initrd_does_not_panic_for_ever_for_want_of_tries(kind: type[Firmware]) -> None:
    firmware = settled(kind)
    rot(firmware, Slot.IMAGE, "initrd.img")
    assert [firmware.choose() for _ in range(6)] == [(Slot.WORKING, kernel_of(OLD))] * 6


@both
def test_a_rotten_working_kernel_that_was_armed_is_not_started(kind: type[Firmware]) -> None:
    firmware = settled(kind)
    firmware.backend(Slot.IMAGE).set_primary(Slot.IMAGE)
    firmware.backend(Slot.IMAGE).try_once(Slot.WORKING)
    rot(firmware, Slot.WORKING, "vmlinuz")
    assert [firmware.choose()[0] for _ in range(3)] == [Slot.IMAGE] * 3
