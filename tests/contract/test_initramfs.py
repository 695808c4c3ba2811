"""The initramfs script's functions in a shell of their own, with programs that only say how they were called."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from k8r_agent.model.marker import Marker, build

SCRIPT = Path(__file__).resolve().parents[2] / "etc/initramfs-tools/scripts/k8r"
# Stand-ins for initramfs-tools' functions and for programs that want a real disk.
BEFORE = """
panic() { echo "PANIC $*"; exit 9; }
wait_for_udev() { :; }
modprobe() { :; }
mount() { echo "mount $*"; return "${MOUNT:-0}"; }
umount() { :; }
blockdev() { echo "blockdev $*"; return "${BLOCKDEV:-0}"; }
e2fsck() { echo "e2fsck $*"; return "${E2FSCK:-0}"; }
"""


def sh(what: str, tmp_path: Path, **variables: str) -> tuple[int, str]:
    text = f"{BEFORE}\n. {SCRIPT}\nK8R_RUN={tmp_path}/run\nrootmnt={tmp_path}/root\nmkdir -p $rootmnt\n{what}\n"
    done = subprocess.run(["/bin/sh", "-c", text], capture_output=True, text=True, timeout=30,
                          env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **variables})
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout


@pytest.mark.fault(32)
@pytest.mark.parametrize(("code", "good"), [(0, True), (1, True), (2, True), (3, True), (4, False), (8, False),
                                            (12, False), (127, False)])
def test_a_working_slot_that_e2fsck_cannot_mend_is_not_booted(tmp_path: Path, code: int, good: bool) -> None:
    status, out = sh("k8r_root=vda3; k8r_mount_working", tmp_path, E2FSCK=str(code))
    assert (status == 0) == good and ("mount -t ext4 -o rw" in out) == good
    assert "e2fsck -p /dev/vda3" in out


@pytest.mark.fault(32)
def test_a_state_partition_that_cannot_be_mended_is_left_alone_and_named(tmp_path: Path) -> None:
    status, out = sh("k8r_partition() { echo vda4; }; k8r_probe() { echo U; }; k8r_marker=U; k8r_mount_state; "
                     'echo "state=$k8r_state"', tmp_path, E2FSCK="4")
    assert status == 0 and "state=failed:e2fsck cannot mend vda4" in out and "mount -t" not in out


@pytest.mark.parametrize(("marker", "uuid", "part", "says"), [
    ("", "U", "vda4", "absent"), ("unreadable", "U", "vda4", "does not say which"), ("U", "U", "", "no partition 4"),
    ("U", "V", "vda4", "does not hold the file system U"), ("U", "", "vda4", "does not hold"),
    ("U", "U", "vda4", "mounted")])
def test_only_the_state_partition_that_the_marker_names_is_mounted(tmp_path: Path, marker: str, uuid: str, part: str,
                                                                   says: str) -> None:
    _, out = sh(f"k8r_partition() {{ echo {part}; }}; k8r_probe() {{ echo {uuid}; }}; k8r_marker={marker}; "
                'k8r_mount_state; echo "state=$k8r_state"', tmp_path)
    assert says in out.rsplit("state=", 1)[1] and ("mount -t" in out) == (says == "mounted")


@pytest.mark.parametrize(("marker", "read"), [
    (build(Marker(uuid="U-1")), "U-1"), (build(Marker(new="U-1")), ""), (b"", "unreadable"),
    (b"\xff" * 512, "unreadable"), (None, "")])
def test_a_state_that_may_still_be_made_is_absent_and_a_damaged_marker_is_not(tmp_path: Path, marker: bytes | None,
                                                                              read: str) -> None:
    directory = tmp_path / "run/boot-partition/k8r"
    directory.mkdir(parents=True)
    if marker is not None:
        (directory / "state").write_bytes(marker)
    _, out = sh('rmdir() { :; }; k8r_boot=vda1; k8r_read_marker; echo "marker=$k8r_marker"', tmp_path)
    assert out.splitlines()[-1] == f"marker={read}"


def test_the_image_slot_is_never_mounted_writable(tmp_path: Path) -> None:
    status, out = sh("k8r_root=vda2; k8r_mount_image", tmp_path)
    assert status == 0 and "blockdev --setro /dev/vda2" in out.splitlines()[0] and "ro,noload /dev/vda2" in out
    assert sh("k8r_root=vda2; k8r_mount_image", tmp_path, BLOCKDEV="1")[0] != 0


@pytest.mark.parametrize("cmdline", ["", "rescue", "working image"])
def test_a_slot_that_nobody_knows_ends_in_a_restart(tmp_path: Path, cmdline: str) -> None:
    status, out = sh(f"k8r_argument() {{ echo '{cmdline}'; }}; mountroot", tmp_path)
    assert status == 9 and "neither image nor working" in out
