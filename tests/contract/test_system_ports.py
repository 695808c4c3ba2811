"""Machine and Identity: what steps rely on holds for the fakes and for the real things."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from k8r_agent.effects.bus import Bus
from k8r_agent.effects.identity import NodeIdentity
from k8r_agent.effects.machine import LocalMachine
from k8r_agent.effects.statefiles import StateDirectory
from k8r_agent.ports.machine import Identity, Machine
from tests.fakes.identity import FakeIdentity
from tests.fakes.machine import FakeMachine

CHECKS = {"kernel", "network", "ssh", "state", "release", "units"}


@pytest.fixture(params=["fake", "real"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    if request.param == "fake":
        return FakeMachine()
    return LocalMachine(bus=Bus(f"unix:path={tmp_path}/no-bus"))  # a test reboots nobody


def test_one_boot_has_one_id(machine: Machine) -> None:
    assert machine.boot_id() == machine.boot_id() and len(machine.boot_id()) == 36


def test_time_does_not_run_backwards(machine: Machine) -> None:
    assert machine.now() <= machine.now() and machine.monotonic() <= machine.monotonic()
    assert machine.now() > 1_600_000_000


def test_names(machine: Machine) -> None:
    assert machine.architecture() and machine.boards() and all(machine.boards())
    assert machine.running_release() >= 0


def test_health_has_the_same_checks_and_a_detail_for_each(machine: Machine) -> None:
    checks = machine.health()
    assert {check.name for check in checks} == CHECKS
    assert all(check.detail and check.ok in (True, False) for check in checks)


def test_a_lock_is_given_back_when_the_work_fails(machine: Machine) -> None:
    with pytest.raises(ZeroDivisionError), machine.inhibit("a test"):
        raise ZeroDivisionError
    if isinstance(machine, FakeMachine):
        assert machine.locks == [] and machine.lock_log == ["a test"]


class Case:
    """An identity, and how to change the system or to boot the image slot."""

    def __init__(self, identity: Identity, change: Callable[[], None], image_slot: Callable[[], None]) -> None:
        self.identity, self.change, self.image_slot = identity, change, image_slot


def put(path: Path, text: str) -> None:
    path.write_text(text)


@pytest.fixture(params=["fake", "real"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    if request.param == "fake":
        fake = FakeIdentity()
        return Case(fake, lambda: fake.has.update(hostname=b"new\n"), lambda: setattr(fake, "image_slot", True))
    root, state = tmp_path / "root", tmp_path / "state"
    state.mkdir()
    for name, text in {"etc/machine-id": "0123456789abcdef0123456789abcdef\n", "etc/hostname": "old\n",
                       "etc/passwd": "root:x:0:0:root:/root:/bin/bash\n",
                       "etc/shadow": "root:*:20000:0:99999:7:::\n", "etc/group": "root:x:0:\n",
                       "run/k8r/boot": "slot=working\n"}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    real = NodeIdentity(files=StateDirectory(state, mounted=lambda path: True), root=root)
    return Case(real, lambda: put(root / "etc/hostname", "new\n"), lambda: put(root / "run/k8r/boot", "slot=image\n"))


def test_captured_says_whether_the_copy_is_current(case: Case) -> None:
    assert not case.identity.captured()
    case.identity.capture()
    assert case.identity.captured()
    case.change()
    assert not case.identity.captured()
    case.identity.capture()
    assert case.identity.captured()


def test_capturing_twice_is_capturing_once(case: Case) -> None:
    case.identity.capture()
    case.identity.capture()
    assert case.identity.captured()


def test_in_the_image_slot_the_copy_counts(case: Case) -> None:
    case.image_slot()
    assert not case.identity.captured()
    case.identity.capture()
    assert case.identity.captured()
    case.change()
    case.identity.capture()
    assert case.identity.captured()
