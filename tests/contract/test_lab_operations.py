"""What a record lets a node do to its boot partition, on the fakes first: a life takes a quarter of an hour."""

from __future__ import annotations

from pathlib import Path

import pytest

from k8r_agent.boot.grub import Grub
from k8r_agent.boot.programs import PROGRAMS, SUMS, LoaderPrograms, render_sums
from k8r_agent.boot.systemd_boot import SystemdBoot
from k8r_agent.model.boot import Content
from k8r_agent.model.slots import Slot
from tests.fakes.firmware import LOADERS, GrubFirmware, SystemdBootFirmware
from tests.lab.operations import REMARK, operations


@pytest.mark.parametrize("kind", LOADERS)
def test_every_operation(kind: type[SystemdBootFirmware] | type[GrubFirmware], tmp_path: Path) -> None:
    firmware = kind()
    backend = firmware.backend(Slot.WORKING)
    assert isinstance(backend, Grub | SystemdBoot)
    programs = PROGRAMS[kind.name]
    for name in programs.values():
        (tmp_path / f"{name}.efi").write_bytes(name.encode())
    backend._programs = LoaderPrograms(files=firmware.files, loader=kind.name, packaged=tmp_path)
    with firmware.files.writable():
        for path, name in programs.items():
            firmware.files.put(path, name.encode())
        firmware.files.put(SUMS, render_sums({path: Content.of([name.encode()]) for path, name in programs.items()}))
    image = backend.assets(Slot.IMAGE)
    assert image is not None
    backend.install_assets(Slot.WORKING, image)
    backend.set_primary(Slot.WORKING)
    for name, operation in operations(backend, firmware.files).items():
        operation()
        assert not firmware.pending(), f"{name} is not durable"
        assert backend.state().tries_left == (1 if name.startswith("spend") else 3), name
        assert len(backend.loader_faults()) == (len(programs) if name.startswith("spoil") else 0), name
        assert (firmware.files.read("k8r.toml") or b"").endswith(REMARK) == name.startswith("remark"), name
    assert (backend.state().primary, backend.state().armed) == (Slot.WORKING, None)
