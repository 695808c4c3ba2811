"""Power cuts inside every operation of the boot backends: at every crash point, with every subset of the changes that
were not flushed. Whatever is left must boot, as before or as after, and nothing else; and doing it again must work."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

import pytest

from k8r_agent.model.slots import Slot
from k8r_agent.ports.boot import BootBackend
from tests.fakes.assets import in_memory, kernel_of
from tests.fakes.bootfiles import nowhere
from tests.fakes.firmware import LOADERS, GrubFirmware, SystemdBootFirmware

OLD = in_memory(kernel=b"old kernel", initrd=b"old initrd", cmdline="quiet", release="1")
NEW = in_memory(kernel=b"new kernel", initrd=b"new initrd", cmdline="quiet splash", release="2")
Firmware = SystemdBootFirmware | GrubFirmware
Outcome = tuple[tuple[Slot, bytes], ...]


class Cut(BaseException):
    pass


def node(kind: type[Firmware], *, primary: Slot, used: int = 0, dead: bool = False) -> Firmware:
    firmware = kind(assets=OLD)
    backend = firmware.backend(Slot.IMAGE)
    backend.install_assets(Slot.WORKING, OLD)
    backend.set_primary(Slot.WORKING)
    for _ in range(4 if dead else used):
        firmware.choose()
    if primary is Slot.IMAGE:
        backend.set_primary(Slot.IMAGE)
    return firmware


def boots(firmware: Firmware, count: int = 5) -> Outcome:
    """The slots and kernels of the next boots if nobody ever says that one was good."""
    copied = copy.deepcopy(firmware)
    return tuple(copied.choose() for _ in range(count))


def cuts(firmware: Firmware, slot: Slot, act: Callable[[BootBackend], None]) -> list[Firmware]:
    """Every state that a power cut during `act` can leave, and the state after it."""
    found: dict[object, Firmware] = {}
    for number in itertools.count():
        trial = copy.deepcopy(firmware)
        hits = itertools.count()

        def point(name: str, number: int = number, hits: itertools.count[int] = hits) -> None:
            if next(hits) == number:
                raise Cut(name)
        trial.files.point = trial.efi.point = point
        try:
            act(trial.backend(slot))
            done = True
        except Cut:
            done = False
        trial.files.point = trial.efi.point = nowhere
        pending = len(trial.files.pending)
        for subset in itertools.product((False, True), repeat=pending):
            left = copy.deepcopy(trial)
            left.files.power_cut(lambda i, subset=subset: subset[i])  # type: ignore[misc]
            found[left.key()] = left
        if done:
            return list(found.values())
    raise AssertionError


ACTIONS: dict[str, tuple[Slot, Callable[[BootBackend], None]]] = {
    "set-primary-image": (Slot.IMAGE, lambda b: b.set_primary(Slot.IMAGE)),
    "set-primary-working": (Slot.WORKING, lambda b: b.set_primary(Slot.WORKING)),
    "try-image": (Slot.WORKING, lambda b: b.try_once(Slot.IMAGE)),
    "try-working": (Slot.IMAGE, lambda b: b.try_once(Slot.WORKING)),
    "refill": (Slot.WORKING, lambda b: b.refill_tries()),
    "new-kernel": (Slot.WORKING, lambda b: b.install_assets(Slot.WORKING, NEW)),
    "new-image": (Slot.WORKING, lambda b: b.install_assets(Slot.IMAGE, NEW)),
    "withdraw-image": (Slot.WORKING, lambda b: b.offer_image(False)),
    "offer-image": (Slot.WORKING, lambda b: b.offer_image(True)),
    "disarm": (Slot.WORKING, lambda b: b.disarm()),
}


@pytest.mark.fault(2)
@pytest.mark.fault(5)
@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("primary", Slot)
@pytest.mark.parametrize("used", [0, 1, 2])
@pytest.mark.parametrize("action", ACTIONS)
def test_old_or_new_and_nothing_else(kind: type[Firmware], primary: Slot, used: int, action: str) -> None:
    slot, act = ACTIONS[action]
    firmware = node(kind, primary=primary, used=used)
    if action == "disarm":
        firmware.backend(slot).try_once(Slot.IMAGE)
    if action == "offer-image":
        firmware.backend(slot).offer_image(False)
    before = boots(firmware)
    after_node = copy.deepcopy(firmware)
    act(after_node.backend(slot))
    after = boots(after_node)
    states = cuts(firmware, slot, act)
    assert states
    print(f"\n{len(states)} torn states")
    for left in states:
        first = boots(left)[0]
        assert first in (before[0], after[0]), action
        if action not in ("set-primary-working", "refill"):
            assert boots(left) in (before, after)
        act(left.backend(slot))
        assert boots(left) == after, "doing it again"
        assert not left.backend(slot).problems()


@pytest.mark.fault(2)
@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("used", [1, 2])
def test_a_cut_refill_never_strands_and_never_counts_for_ever(kind: type[Firmware], used: int) -> None:
    firmware = node(kind, primary=Slot.WORKING, used=used)
    for left in cuts(firmware, Slot.WORKING, lambda b: b.refill_tries()):
        slots = [slot for slot, _ in boots(left, 14)]
        assert slots[0] is Slot.WORKING and Slot.IMAGE in slots[:6], "a dead working slot is left"
        turns = slots[slots.index(Slot.IMAGE):]
        assert turns == [turns[n % 4] for n in range(len(turns))] and turns[:4] == [Slot.IMAGE] * 3 + [Slot.WORKING], \
            "from then on a dead image slot is left as well, now and then"


def test_a_cut_refill_on_a_full_partition_never_strands() -> None:
    """The entry is renamed then: a cut may leave its old name, its new one, both or neither."""
    firmware = node(SystemdBootFirmware, primary=Slot.WORKING, used=2)
    firmware.files.size -= firmware.files.free()
    states = cuts(firmware, Slot.WORKING, lambda b: b.refill_tries())
    assert len({left.key() for left in states}) >= 4
    for left in states:
        slot, kernel = boots(left)[0]
        assert kernel == kernel_of(OLD)
        left.backend(slot).refill_tries()
        assert boots(left) == ((Slot.WORKING, kernel_of(OLD)),) * 3 + ((Slot.IMAGE, kernel_of(OLD)),) * 2


@pytest.mark.parametrize("kind", LOADERS)
def test_reviving_a_dead_working_slot(kind: type[Firmware]) -> None:
    """Tries used up, image took over: new assets, then a try-boot, then confirmed; cut anywhere."""
    firmware = node(kind, primary=Slot.IMAGE, dead=True)
    for left in cuts(firmware, Slot.IMAGE, lambda b: b.install_assets(Slot.WORKING, NEW)):
        assert {slot for slot, _ in boots(left)} == {Slot.IMAGE}
        left.backend(Slot.IMAGE).install_assets(Slot.WORKING, NEW)
        for armed in cuts(left, Slot.IMAGE, lambda b: b.try_once(Slot.WORKING)):
            sequence = boots(armed)
            assert sequence[0] in ((Slot.IMAGE, kernel_of(OLD)), (Slot.WORKING, kernel_of(NEW)))
            assert {slot for slot, _ in sequence[1:]} == {Slot.IMAGE}
            if sequence[0][0] is Slot.WORKING:
                armed.choose()
                for confirmed in cuts(armed, Slot.WORKING, lambda b: b.set_primary(Slot.WORKING)):
                    assert boots(confirmed)[0] in ((Slot.IMAGE, kernel_of(OLD)), (Slot.WORKING, kernel_of(NEW)))
                    confirmed.backend(Slot.WORKING).set_primary(Slot.WORKING)
                    assert [slot for slot, _ in boots(confirmed)] == [Slot.WORKING] * 3 + [Slot.IMAGE] * 2


@pytest.mark.fault(3)
@pytest.mark.parametrize("kind", LOADERS)
def test_first_assets_of_a_fresh_disk(kind: type[Firmware]) -> None:
    firmware = kind(assets=OLD)
    for left in cuts(firmware, Slot.IMAGE, lambda b: b.install_assets(Slot.WORKING, NEW)):
        assert {slot for slot, _ in boots(left)} == {Slot.IMAGE}
        left.backend(Slot.IMAGE).install_assets(Slot.WORKING, NEW)
        left.backend(Slot.IMAGE).set_primary(Slot.WORKING)
        assert boots(left)[0] == (Slot.WORKING, kernel_of(NEW))
