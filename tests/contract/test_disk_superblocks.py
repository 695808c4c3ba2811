"""What is left of an ext4 whose beginning was overwritten: no partition that carries that is empty."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import cast

import pytest

from k8r_agent.config.table import TABLE
from k8r_agent.effects.commands import commands
from k8r_agent.effects.mkfs import Filesystems
from tests.contract.test_initramfs import sectors

pytestmark = pytest.mark.skipif(shutil.which("mkfs.ext4", path="/usr/sbin:/sbin") is None, reason="no e2fsprogs")
MIB = 1 << 20
UUID = "0f0f0f0f-0000-4000-8000-00000000000a"


def made(path: Path, *, block: int, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    subprocess.run(["/sbin/mkfs.ext4", "-q", "-F", "-b", str(block), "-L", "k8r-state", "-U", UUID, str(path)],
                   check=True)
    return path


@pytest.mark.parametrize(("block", "size"), [(1024, 40 * MIB), (2048, 100 * MIB), (4096, 300 * MIB)])
def test_a_copy_of_the_superblock_is_a_signature(tmp_path: Path, block: int, size: int) -> None:
    path, found = made(tmp_path / "state", block=block, size=size), Filesystems(commands())
    copy = found.copy(path)
    assert copy and copy.uuid == UUID and copy.label == "k8r-state"
    with path.open("r+b") as file:
        file.write(bytes(8 * MIB))
    assert found.uuid(path) == "", "libblkid sees nothing any more"
    assert found.signature(path) == "damaged ext4 k8r-state"


def test_an_empty_partition_has_none(tmp_path: Path) -> None:
    path, found = tmp_path / "state", Filesystems(commands())
    with path.open("wb") as file:
        file.truncate(300 * MIB)
    assert found.signature(path) == "" and found.copy(path) is None
    inner = made(tmp_path / "inner", block=4096, size=64 * MIB)
    with path.open("r+b") as file:  # an image that was copied somewhere into it: its superblock says group 0
        file.seek(128 * MIB - 1024)
        file.write(inner.read_bytes()[:MIB])
    assert found.copy(path) is None


@pytest.mark.parametrize("newer", [2, 3])
def test_a_torn_superblock_is_known_and_made_whole(tmp_path: Path, newer: int) -> None:
    """First boot, cut between the first mount and the marker: the initramfs has not looked at it yet."""
    path, found = made(tmp_path / "state", block=4096, size=160 * MIB), Filesystems(commands())
    old = sectors(path)
    subprocess.run(["/sbin/tune2fs", "-c", "7", str(path)], check=True, capture_output=True)
    sectors(path, (5 - newer, old[(5 - newer) * 512:][:512]))
    assert found.uuid(path) == UUID and "ext4 k8r-state" in found.signature(path) and not found.clean(path)
    assert found.mend(path) == "" and found.clean(path) and found.uuid(path) == UUID


def test_what_has_lost_its_magic_number_is_not_made_from_a_copy(tmp_path: Path) -> None:
    path, found = made(tmp_path / "state", block=4096, size=160 * MIB), Filesystems(commands())
    left = sectors(path, (2, bytes(512)))
    assert "magic" in found.mend(path) and sectors(path) == left


def test_damage_that_wants_a_person_is_told(tmp_path: Path) -> None:
    path, found = made(tmp_path / "state", block=4096, size=160 * MIB), Filesystems(commands())
    for damage in ("clri <2>", "set_super_value state 2"):  # 2: the kernel met errors, so a check looks at everything
        subprocess.run(["/sbin/debugfs", "-w", "-R", damage, str(path)], check=True, capture_output=True)
    assert "RUN fsck MANUALLY" in found.mend(path)


def test_the_least_state_partition_has_a_copy_of_its_superblock(tmp_path: Path) -> None:
    """A block group is 128 MiB; with only one there is only one superblock, and nothing mends that when it is torn."""
    setting, = (setting for setting in TABLE if (setting.section, setting.key) == ("disk", "state_size"))
    found, path = Filesystems(commands()), tmp_path / "state"
    with pytest.raises(ValueError, match="at least 256MiB"):
        setting.read("255MiB")
    with path.open("wb") as file:
        file.truncate(cast("int", setting.read("256MiB")))
    found.make(path, label="k8r-state", uuid=UUID)
    copy = found.copy(path)
    assert copy and copy.uuid == UUID
    sectors(path, (3, bytes(512)))
    assert found.mend(path) == "" and found.clean(path)
