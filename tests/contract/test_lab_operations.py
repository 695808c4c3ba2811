"""What a record lets a node do to its boot partition, on the fakes first: a life takes a quarter of an hour."""

from __future__ import annotations

import pytest

from k8r_agent.boot.grub import Grub
from k8r_agent.boot.systemd_boot import SystemdBoot
from k8r_agent.model.slots import Slot
from tests.fakes.firmware import LOADERS, GrubFirmware, SystemdBootFirmware
from tests.lab.operations import operations


@pytest.mark.parametrize("kind", LOADERS)
def test_every_operation(kind: type[SystemdBootFirmware] | type[GrubFirmware]) -> None:
    firmware = kind()
    backend = firmware.backend(Slot.WORKING)
    assert isinstance(backend, Grub | SystemdBoot)
    image = backend.assets(Slot.IMAGE)
    assert image is not None
    backend.install_assets(Slot.WORKING, image)
    backend.set_primary(Slot.WORKING)
    for name, operation in operations(backend, firmware.files).items():
        operation()
        assert not firmware.pending(), f"{name} is not durable"
        assert backend.state().tries_left == (1 if name.startswith("spend") else 3), name
    assert (backend.state().primary, backend.state().armed) == (Slot.WORKING, None)
