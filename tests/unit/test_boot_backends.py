"""Both backends on the fake boot partition, judged by what the fake firmware then boots."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace

import pytest

from k8r_agent.boot import registry, sdfiles
from k8r_agent.errors import BootError, K8rError, Protected, Refused
from k8r_agent.model.boot import BootFacts
from k8r_agent.model.slots import Slot
from tests.fakes.assets import in_memory, kernel_of
from tests.fakes.bootfiles import FakeBootFiles
from tests.fakes.efivars import FakeEfiVars
from tests.fakes.firmware import LOADERS, GrubFirmware, SystemdBootFirmware

OLD = in_memory(kernel=b"old kernel", initrd=b"old initrd", cmdline="quiet", release="1")
NEW = in_memory(kernel=b"new kernel", initrd=b"new initrd", cmdline="quiet splash", release="2")

Firmware = SystemdBootFirmware | GrubFirmware


def fresh(kind: type[Firmware]) -> Firmware:
    return kind(assets=OLD)


def settled(kind: type[Firmware], *, tries: int = 3) -> Firmware:
    """A node in use: both slots have their assets, working is the primary."""
    firmware = kind(assets=OLD, tries=tries)
    backend = firmware.backend(Slot.IMAGE)
    backend.install_assets(Slot.WORKING, OLD)
    backend.set_primary(Slot.WORKING)
    return firmware


def active(firmware: Firmware, slot: Slot) -> str:
    """The directory that the slot boots from."""
    found = [path.split("/") for path in firmware.files.medium if path.startswith(f"{slot}/")]
    letters = {parts[1] for parts in found}
    assert len(letters) == 1
    return f"{slot}/{letters.pop()}"


both = pytest.mark.parametrize("kind", LOADERS)


@both
def test_a_fresh_disk_boots_image(kind: type[Firmware]) -> None:
    firmware = fresh(kind)
    state = firmware.backend(Slot.IMAGE).state()
    assert (state.primary, state.armed, state.current) == (Slot.IMAGE, None, Slot.IMAGE)
    assert [firmware.choose()[0] for _ in range(5)] == [Slot.IMAGE] * 5


@both
def test_the_first_boot_of_working(kind: type[Firmware]) -> None:
    firmware = fresh(kind)
    backend = firmware.backend(Slot.IMAGE)
    with pytest.raises(Protected):
        backend.try_once(Slot.WORKING)
    with pytest.raises(Protected):
        backend.set_primary(Slot.WORKING)
    backend.install_assets(Slot.WORKING, NEW)
    assert firmware.choose() == (Slot.IMAGE, kernel_of(OLD)), "installing assets boots nothing"
    backend.try_once(Slot.WORKING)
    assert backend.state().armed is Slot.WORKING
    assert firmware.choose() == (Slot.WORKING, kernel_of(NEW))
    assert firmware.choose() == (Slot.IMAGE, kernel_of(OLD)), "once"
    backend.set_primary(Slot.WORKING)
    assert firmware.choose() == (Slot.WORKING, kernel_of(NEW))


@both
@pytest.mark.parametrize("tries", [1, 2, 3, 4])
def test_the_primary_working_slot_is_left_after_its_tries(kind: type[Firmware], tries: int) -> None:
    firmware = settled(kind, tries=tries)
    for left in range(tries, 0, -1):
        assert firmware.backend(Slot.WORKING).state().tries_left == left
        assert firmware.choose()[0] is Slot.WORKING
    assert firmware.backend(Slot.IMAGE).state().tries_left == 0
    assert [firmware.choose()[0] for _ in range(3)] == [Slot.IMAGE] * 3


@both
def test_refilling_again_and_again(kind: type[Firmware]) -> None:
    firmware = settled(kind)
    for used in (1, 2, 1, 3, 1, 1):
        for _ in range(used):
            assert firmware.choose()[0] is Slot.WORKING
        backend = firmware.backend(Slot.WORKING)
        assert backend.state().tries_left == 3 - used
        backend.refill_tries()
        assert backend.state().tries_left == 3
        assert not backend.problems()


@both
def test_trying_image_and_falling_back(kind: type[Firmware]) -> None:
    firmware = settled(kind)
    backend = firmware.backend(Slot.WORKING)
    backend.try_once(Slot.IMAGE)
    backend.disarm()
    assert backend.state().armed is None
    backend.disarm()
    assert firmware.choose()[0] is Slot.WORKING
    backend.try_once(Slot.IMAGE)
    assert firmware.choose()[0] is Slot.IMAGE
    assert firmware.backend(Slot.IMAGE).state().armed is None
    assert firmware.choose()[0] is Slot.WORKING


@both
def test_a_slot_whose_tries_are_used_up_can_still_be_tried_and_confirmed(kind: type[Firmware]) -> None:
    firmware = settled(kind)
    for _ in range(4):
        firmware.choose()
    backend = firmware.backend(Slot.IMAGE)
    backend.set_primary(Slot.IMAGE)
    backend.install_assets(Slot.WORKING, NEW)
    backend.try_once(Slot.WORKING)
    assert firmware.choose() == (Slot.WORKING, kernel_of(NEW))
    backend = firmware.backend(Slot.WORKING)
    backend.set_primary(Slot.WORKING)
    assert backend.state().tries_left == 3
    assert firmware.choose() == (Slot.WORKING, kernel_of(NEW))


@pytest.mark.fault(1)
@both
def test_an_image_slot_that_is_not_offered_is_never_booted(kind: type[Firmware]) -> None:
    firmware = settled(kind)
    backend = firmware.backend(Slot.WORKING)
    backend.offer_image(False)
    assert not backend.state().image_offered and backend.assets(Slot.IMAGE) == OLD
    assert [firmware.choose()[0] for _ in range(12)] == [Slot.WORKING] * 12
    for refused in (backend.try_once, backend.set_primary):
        with pytest.raises(Protected, match="image slot") as error:
            refused(Slot.IMAGE)
        assert "update" in error.value.hint
    backend.refill_tries()
    backend.offer_image(True)
    assert backend.state().image_offered
    assert [firmware.choose()[0] for _ in range(4)] == [Slot.WORKING] * 3 + [Slot.IMAGE]


@both
def test_new_assets_offer_the_image_slot_again(kind: type[Firmware]) -> None:
    firmware = settled(kind)
    backend = firmware.backend(Slot.WORKING)
    backend.offer_image(False)
    backend.install_assets(Slot.IMAGE, NEW)
    assert backend.state().image_offered
    assert [firmware.choose()[0] for _ in range(4)] == [Slot.WORKING] * 3 + [Slot.IMAGE]


@pytest.mark.fault(4)
@both
def test_a_new_kernel_for_the_running_slot(kind: type[Firmware]) -> None:
    firmware = settled(kind)
    backend = firmware.backend(Slot.WORKING)
    where = active(firmware, Slot.WORKING)
    present = {path: data for path, data in firmware.files.medium.items() if path.startswith(where)}
    backend.install_assets(Slot.WORKING, NEW)
    assert {p: d for p, d in firmware.files.medium.items() if p.startswith(where)} == present
    assert backend.assets(Slot.WORKING) == NEW
    assert backend.assets(Slot.IMAGE) == OLD
    assert firmware.choose() == (Slot.WORKING, kernel_of(NEW))
    backend.install_assets(Slot.WORKING, OLD)
    assert firmware.choose() == (Slot.WORKING, kernel_of(OLD))
    assert not firmware.files.depth and not firmware.files.pending


@pytest.mark.fault(3)
@both
def test_no_room_is_found_before_the_first_byte(kind: type[Firmware]) -> None:
    firmware = settled(kind)
    before = dict(firmware.files.medium)
    firmware.files.size = firmware.files._used() + (64 << 10)
    with pytest.raises(Refused, match="do not fit"):
        firmware.backend(Slot.WORKING).install_assets(Slot.WORKING, NEW)
    assert firmware.files.medium == before
    assert firmware.choose() == (Slot.WORKING, kernel_of(OLD))


@both
def test_arguments_that_do_not_fit_change_nothing(kind: type[Firmware]) -> None:
    firmware = settled(kind)
    before = dict(firmware.files.medium)
    long = replace(NEW, cmdline="x" * 600)
    if kind is SystemdBootFirmware:
        with pytest.raises(BootError, match="one sector"):
            firmware.backend(Slot.WORKING).install_assets(Slot.WORKING, long)
        assert firmware.files.medium == before
    else:
        firmware.backend(Slot.WORKING).install_assets(Slot.WORKING, long)
        assert firmware.backend(Slot.WORKING).assets(Slot.WORKING) == long


def test_an_override_in_the_firmware_is_seen_and_removed() -> None:
    firmware = settled(SystemdBootFirmware)
    backend = firmware.backend(Slot.WORKING)
    firmware.efi.values["LoaderEntryDefault"] = "k8r-image.conf"
    assert backend.state().primary is Slot.IMAGE, "what boots, not what the agent wrote"
    assert "overrides" in backend.problems()[0]
    backend.refill_tries()
    assert backend.state().primary is Slot.WORKING and not firmware.efi.values


def test_other_peoples_one_shots_are_not_ours() -> None:
    firmware = settled(SystemdBootFirmware)
    firmware.efi.values["LoaderEntryOneShot"] = "auto-reboot-to-firmware-setup"
    assert firmware.backend(Slot.WORKING).state().armed is None
    firmware.backend(Slot.WORKING).disarm()
    assert not firmware.efi.values


@pytest.mark.fault(35)
def test_a_firmware_that_forgets_is_an_error() -> None:
    firmware = settled(SystemdBootFirmware)
    firmware.efi.forgetful = True
    with pytest.raises(BootError, match="did not keep"):
        firmware.backend(Slot.WORKING).try_once(Slot.IMAGE)
    firmware.efi.present = False
    with pytest.raises(BootError, match="once"):
        firmware.backend(Slot.WORKING).try_once(Slot.IMAGE)


@pytest.mark.parametrize("left", ["nothing", "unreadable", "blessed", "two"])
def test_a_lost_counter_is_healed(left: str) -> None:
    firmware = settled(SystemdBootFirmware)
    entries = "loader/entries"
    data = firmware.files.medium.pop(f"{entries}/k8r-working+3-0.conf")
    if left == "unreadable":
        firmware.files.medium[f"{entries}/k8r-working+3-0.conf"] = b"\0" * 512
    elif left == "blessed":
        firmware.files.medium[f"{entries}/k8r-working.conf"] = data
    elif left == "two":
        for name in ("k8r-working+2-5.conf", "k8r-working+2-1.conf"):
            firmware.files.medium[f"{entries}/{name}"] = data
    firmware.files.power_cut()
    backend = firmware.backend(Slot.WORKING)
    if left == "nothing":
        assert backend.state().tries_left == 0 and "lost" in backend.problems()[0]
    backend.refill_tries()
    assert backend.state().tries_left == 3 and not backend.problems()
    assert [firmware.choose()[0] for _ in range(4)] == [Slot.WORKING] * 3 + [Slot.IMAGE]


def test_files_that_a_person_edited_are_replaced() -> None:
    firmware = settled(SystemdBootFirmware)
    firmware.files.medium["loader/loader.conf"] = b"default k8r-image.conf\ntimeout 5\n"
    firmware.files.power_cut()
    firmware.backend(Slot.WORKING).set_primary(Slot.WORKING)
    assert len(firmware.files.medium["loader/loader.conf"]) == 512
    firmware = settled(GrubFirmware)
    firmware.files.medium["grub/k8r.env"] = b""
    firmware.files.power_cut()
    backend = firmware.backend(Slot.WORKING)
    assert backend.problems()
    backend.set_primary(Slot.IMAGE)
    assert firmware.choose()[0] is Slot.IMAGE


def facts(loader: str) -> BootFacts:
    return BootFacts(slot=Slot.WORKING, disk="vda", bootpart="vda1", rootpart="vda3", statepart="vda4",
                     state="mounted", duplicate=None, loader=loader, watchdog=None)


@both
def test_the_registry_takes_the_loader_whose_files_are_there(kind: type[Firmware]) -> None:
    firmware = settled(kind)
    for said in (kind.name, "", "u-boot"):
        backend = registry.open_backend(facts(said), firmware.files, firmware.efi, tries=2)
        assert backend.name == kind.name and backend.state().current is Slot.WORKING


def test_the_registry_without_any() -> None:
    with pytest.raises(K8rError, match="no boot loader"):
        registry.open_backend(facts("grub"), FakeBootFiles(), FakeEfiVars())


def test_the_registry_with_both() -> None:
    one, other = settled(SystemdBootFirmware), settled(GrubFirmware)
    both_files = FakeBootFiles({**one.files.medium, **other.files.medium})
    for name in ("grub", "systemd-boot"):
        assert registry.probe(both_files, loader=name) == name


@both
def test_two_that_write_at_once_lose_nothing(kind: type[Firmware], monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel's hook may install one while the boot's own confirmation waits for it."""
    firmware = settled(kind)
    firmware.choose()
    writable = firmware.files.writable

    def meanwhile() -> AbstractContextManager[None]:
        monkeypatch.undo()
        firmware.backend(Slot.WORKING).install_assets(Slot.WORKING, NEW)
        return writable()

    monkeypatch.setattr(firmware.files, "writable", meanwhile)
    firmware.backend(Slot.WORKING).refill_tries()
    assert firmware.backend(Slot.WORKING).state().tries_left == 3
    assert firmware.choose() == (Slot.WORKING, kernel_of(NEW))


@both
def test_what_is_not_in_use_makes_room(kind: type[Firmware]) -> None:
    first, second = (in_memory(kernel=bytes([n]) * 1_000_000, initrd=bytes([n]) * 1_000_000, cmdline="quiet",
                               release=str(n)) for n in (1, 2))
    firmware = kind(assets=first)
    backend = firmware.backend(Slot.IMAGE)
    backend.install_assets(Slot.WORKING, first)
    backend.set_primary(Slot.WORKING)
    backend.install_assets(Slot.IMAGE, second)
    firmware.files.size -= firmware.files.free() - 500_000  # image/a is in use by nobody, and as large as a new one
    backend.assert_room(second, Slot.WORKING)
    firmware.files.size -= 500_000
    before = dict(firmware.files.live)
    with pytest.raises(Refused, match="do not fit"):
        backend.assert_room(second, Slot.WORKING)
    assert firmware.files.live == before
    firmware.files.size += 500_000
    backend.install_assets(Slot.WORKING, second)
    assert firmware.choose() == (Slot.WORKING, kernel_of(second))
    backend.try_once(Slot.IMAGE)
    assert firmware.choose() == (Slot.IMAGE, kernel_of(second))


@both
def test_an_image_slot_that_comes_up_goes_on_being_booted(kind: type[Firmware]) -> None:
    """Where working has no tries left. One that does not come up gives working a turn."""
    firmware = settled(kind)
    for _ in range(firmware.tries):
        assert firmware.choose()[0] is Slot.WORKING
    for _ in range(6):
        assert firmware.choose()[0] is Slot.IMAGE
        firmware.backend(Slot.IMAGE).image_came_up()
    assert [firmware.choose()[0] for _ in range(5)] == [*[Slot.IMAGE] * 3, Slot.WORKING, Slot.IMAGE]
    firmware.backend(Slot.WORKING).refill_tries()
    picks = [firmware.choose()[0] for _ in range(7)]
    assert picks == [*[Slot.WORKING] * 3, *[Slot.IMAGE] * 3, Slot.WORKING], "all of them are full again"


def test_assets_without_an_entry_are_no_assets_while_the_image_slot_is_the_primary() -> None:
    """A first boot that was cut just before its entry: what is there is not installed yet."""
    firmware = fresh(SystemdBootFirmware)
    backend = firmware.backend(Slot.IMAGE)
    backend.install_assets(Slot.WORKING, OLD)
    name = next(name for name in firmware.files.medium if "k8r-working" in name)
    for files in (firmware.files.live, firmware.files.medium):
        del files[name]
    assert backend.assets(Slot.WORKING) is None
    backend.install_assets(Slot.WORKING, OLD)
    assert backend.assets(Slot.WORKING) is not None and name in firmware.files.medium


def test_the_guards_file_is_made_where_it_is_missing() -> None:
    """On a boot partition of before; one that its owner filled goes without."""
    firmware = settled(SystemdBootFirmware)
    for free in (0, 1 << 20):
        for files in (firmware.files.live, firmware.files.medium):
            files.pop(sdfiles.TURNS, None)
        firmware.files.size = firmware.files._used() + free
        firmware.backend(Slot.WORKING).refill_tries()
        assert (firmware.files.medium.get(sdfiles.TURNS) == sdfiles.render_turns()) is bool(free)
