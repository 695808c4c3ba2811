"""Room on the boot partition: what is in use by nobody gives way, and what a gate promises is kept."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from k8r_agent.boot import sdfiles
from k8r_agent.errors import BootError, Refused
from k8r_agent.model.slots import Slot
from tests.fakes.assets import in_memory, kernel_of
from tests.fakes.bootfiles import CLUSTER
from tests.fakes.firmware import LOADERS, GrubFirmware, SystemdBootFirmware

Firmware = SystemdBootFirmware | GrubFirmware
FIRST, SECOND = (in_memory(kernel=bytes([n]) * 1_000_001, initrd=bytes([n]) * 1_000_001, cmdline="quiet",
                           release=str(n)) for n in (1, 2))
LARGER = in_memory(kernel=bytes(2_100_000), initrd=bytes(2_000_001), cmdline="quiet", release="3")
both = pytest.mark.parametrize("kind", LOADERS)


def used(kind: type[Firmware]) -> Firmware:
    """Both slots boot; each has a directory with assets from which nothing boots."""
    firmware = kind(assets=FIRST)
    backend = firmware.backend(Slot.IMAGE)
    for assets in (SECOND, FIRST):
        backend.install_assets(Slot.WORKING, assets)
        backend.install_assets(Slot.IMAGE, assets)
    backend.set_primary(Slot.WORKING)
    return firmware


def unused(firmware: Firmware) -> Iterator[str]:
    for slot in Slot:
        letter = (firmware._env()[f"{slot}_dir"] if isinstance(firmware, GrubFirmware)
                  else firmware._guards_directory(slot))
        yield f"{slot}/{'b' if letter == 'a' else 'a'}"


def leave(firmware: Firmware, free: int) -> None:
    firmware.files.size -= firmware.files.free() - free


def fresh_and_full() -> SystemdBootFirmware:
    firmware = SystemdBootFirmware(assets=FIRST)
    backend = firmware.backend(Slot.IMAGE)
    backend.install_assets(Slot.WORKING, FIRST)
    backend.set_primary(Slot.WORKING)
    leave(firmware, 0)
    return firmware


@both
@pytest.mark.parametrize("slot", Slot)
def test_what_fsck_salvaged_makes_room(kind: type[Firmware], slot: Slot) -> None:
    firmware = used(kind)
    backend = firmware.backend(Slot.WORKING)
    with firmware.files.writable():
        for where in unused(firmware):
            firmware.files.remove(where)
    leave(firmware, 0)
    with pytest.raises(Refused, match="do not fit"):
        backend.assert_room(SECOND, slot)
    for n in range(3):
        for files in (firmware.files.live, firmware.files.medium):
            files[f"FSCK000{n}.REC"] = bytes(1_000_000)
    leave(firmware, 0)
    backend.assert_room(SECOND, slot)
    assert firmware.files.sizes("FSCK0000.REC") == (1_000_000,)
    backend.install_assets(slot, SECOND)
    assert backend.assets(slot) == SECOND
    assert not firmware.files.sizes("FSCK0000.REC")


@both
@pytest.mark.parametrize("slot", Slot)
def test_what_the_gate_lets_through_is_installed(kind: type[Firmware], slot: Slot) -> None:
    refused = installed = 0
    for free in range(0, 400_000, 3 * CLUSTER):
        firmware = used(kind)
        leave(firmware, free)
        backend = firmware.backend(Slot.WORKING)
        try:
            backend.assert_room(LARGER, slot)
        except Refused:
            refused += 1
            continue
        backend.install_assets(slot, LARGER)
        installed += 1
    assert refused and installed


@both
def test_room_for_both_slots_is_not_counted_twice(kind: type[Firmware]) -> None:
    """As a rescue needs it, whose new set for the working slot is larger than the old one was."""
    refused = installed = 0
    for free in range(0, 12_000_000, 400_000):
        firmware = used(kind)
        leave(firmware, free)
        backend = firmware.backend(Slot.IMAGE)
        try:
            backend.assert_room(LARGER, Slot.WORKING, Slot.IMAGE)
        except Refused:
            refused += 1
            continue
        for slot in (Slot.WORKING, Slot.IMAGE):
            backend.install_assets(slot, LARGER)
        installed += 1
    assert refused and installed


def test_a_full_partition_costs_a_working_slot_no_try() -> None:
    """systemd-boot counts in the entry's name, and a new one needs a cluster."""
    firmware = used(SystemdBootFirmware)
    leave(firmware, 0)
    assert firmware.choose() == (Slot.WORKING, kernel_of(FIRST))
    backend = firmware.backend(Slot.WORKING)
    assert backend.state().tries_left == 2
    backend.refill_tries()
    assert backend.state().tries_left == 3
    assert firmware.choose() == (Slot.WORKING, kernel_of(FIRST))
    assert backend.assets(Slot.IMAGE) == FIRST


def test_a_partition_that_its_owner_filled_costs_a_working_slot_no_try_either() -> None:
    """Nothing on it is unused, as on a node that was never updated: the entry is renamed, as by the loader."""
    firmware = fresh_and_full()
    for _ in range(6):
        assert firmware.choose() == (Slot.WORKING, kernel_of(FIRST))
        firmware.backend(Slot.WORKING).refill_tries()
        assert firmware.backend(Slot.WORKING).state().tries_left == 3


@both
@pytest.mark.parametrize("slot", Slot)
def test_what_is_there_already_needs_no_room(kind: type[Firmware], slot: Slot) -> None:
    firmware = used(kind)
    with firmware.files.writable():
        for where in unused(firmware):
            firmware.files.remove(where)
    leave(firmware, 0)
    firmware.backend(Slot.WORKING).assert_room(FIRST, slot)


@pytest.mark.parametrize("how", ["empty", "unreadable"])
def test_an_entry_without_content_does_not_win_over_one_that_boots(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cut while tries are refilled left both, and fsck.vfat emptied the new one, or its sector is bad."""
    firmware = used(SystemdBootFirmware)
    name = next(path for path in firmware.files.live if "k8r-working" in path)
    for files in (firmware.files.live, firmware.files.medium):
        files[f"{sdfiles.ENTRIES}/k8r-working+1-2.conf"] = files.pop(name)
        files[f"{sdfiles.ENTRIES}/k8r-working+2-5.conf"] = b""
    read = firmware.files.read

    def torn(path: str) -> bytes | None:
        if how == "unreadable" and path.endswith("+2-5.conf") and path in firmware.files.live:
            raise BootError(f"cannot read {path}")
        return read(path)

    monkeypatch.setattr(firmware.files, "read", torn)
    backend = firmware.backend(Slot.WORKING)
    before = backend.assets(Slot.WORKING)
    backend.install_assets(Slot.WORKING, SECOND)
    backend.refill_tries()
    assert before == FIRST and backend.assets(Slot.WORKING) == SECOND
    assert firmware.choose() == (Slot.WORKING, kernel_of(SECOND))
