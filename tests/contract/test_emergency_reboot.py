"""What a system that could not start leaves soon, and what it does not: the decision is read by a shell there, without
the agent. The reboot itself is in tests/nspawn, the way in in tests/node."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from k8r_agent.model.slots import Slot
from tests.fakes.assets import in_memory
from tests.fakes.firmware import LOADERS, GrubFirmware, SystemdBootFirmware

SCRIPT = Path(__file__).parents[2] / "etc/libexec/emergency-reboot"
ASSETS = in_memory(kernel=b"kernel", initrd=b"initrd", cmdline="quiet", release="1")
Firmware = SystemdBootFirmware | GrubFirmware


def nothing_behind(firmware: Firmware, slot: Slot, at: Path) -> bool:
    for name, data in firmware.files.medium.items():
        (at / "firmware" / name).parent.mkdir(parents=True, exist_ok=True)
        (at / "firmware" / name).write_bytes(data)
    (at / "boot").write_text(f"slot={slot}\n")
    text, found, _ = SCRIPT.read_text().partition("\nif nothing_behind;")
    assert found and text.count("firmware=/boot/firmware") == 1 and text.count("/run/k8r/boot") == 1
    text = text.replace("firmware=/boot/firmware", f"firmware={at}/firmware").replace("/run/k8r/boot", f"{at}/boot")
    return subprocess.run(["sh", "-eu", "-c", f"{text}\nif nothing_behind; then exit 0; fi; exit 7"]).returncode == 0


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize(("primary", "slot", "lost", "offered", "expected"), [
    (Slot.IMAGE, Slot.IMAGE, 0, True, True),
    (Slot.IMAGE, Slot.WORKING, 0, True, False),  # it was booted once
    (Slot.WORKING, Slot.IMAGE, 3, True, False),  # which the agent leaves in its own way
    (Slot.WORKING, Slot.WORKING, 1, True, False),
    (Slot.WORKING, Slot.WORKING, 3, True, False),  # this was the last try: the image slot is next
    (Slot.WORKING, Slot.WORKING, 1, False, False),
    (Slot.WORKING, Slot.WORKING, 3, False, True),
    (Slot.WORKING, Slot.WORKING, 5, False, True),  # uncounted, for ever
])
def test_what_has_something_behind_it_is_left(kind: type[Firmware], primary: Slot, slot: Slot, lost: int,
                                              offered: bool, expected: bool, tmp_path: Path) -> None:
    firmware = kind(assets=ASSETS)
    backend = firmware.backend(Slot.IMAGE)
    backend.install_assets(Slot.WORKING, ASSETS)
    backend.set_primary(primary)
    backend.offer_image(offered)
    for _ in range(lost):
        firmware.choose()
    assert nothing_behind(firmware, slot, tmp_path) is expected
