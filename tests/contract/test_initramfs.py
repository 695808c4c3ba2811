"""The initramfs script's functions in a shell of their own, with programs that only say how they were called."""

from __future__ import annotations

import os
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


@pytest.mark.fault(14)
@pytest.mark.parametrize(("now", "state", "to"), [
    (0, "mounted", ["@1700000000", "@1800000000"]), (1_750_000_000, "mounted", ["@1800000000"]),
    (1_900_000_000, "mounted", []), (0, "absent", [])])
def test_a_clock_without_a_battery_goes_on_where_the_node_was_last(tmp_path: Path, now: int, state: str,
                                                                   to: list[str]) -> None:
    """The marker alone is from the first boot: certificates made by it could have ended before they were made."""
    kept = tmp_path / "root/var/lib/k8r"
    kept.mkdir(parents=True)
    for name, seconds in (("transaction.json", 1_700_000_000), ("events.jsonl", 1_800_000_000)):
        (kept / name).touch()
        os.utime(kept / name, (seconds, seconds))
    (tmp_path / "now").write_text(str(now))
    clock = (f"date() {{ case \"$1\" in -r) command date \"$@\" ;; -s) echo \"$2\" >>{tmp_path}/set; "
             f"echo \"${{2#@}}\" >{tmp_path}/now ;; *) cat {tmp_path}/now ;; esac; }}; ")
    sh(f"{clock} k8r_log() {{ :; }}; k8r_state={state}; k8r_clock_of_state", tmp_path)
    said = tmp_path / "set"
    assert (said.read_text().split() if said.exists() else []) == to


def test_the_image_slot_is_never_mounted_writable(tmp_path: Path) -> None:
    status, out = sh("k8r_root=vda2; k8r_mount_image", tmp_path)
    assert status == 0 and "blockdev --setro /dev/vda2" in out.splitlines()[0] and "ro,noload /dev/vda2" in out
    assert sh("k8r_root=vda2; k8r_mount_image", tmp_path, BLOCKDEV="1")[0] != 0


@pytest.mark.parametrize("cmdline", ["", "rescue", "working image"])
def test_a_slot_that_nobody_knows_ends_in_a_restart(tmp_path: Path, cmdline: str) -> None:
    status, out = sh(f"k8r_argument() {{ echo '{cmdline}'; }}; mountroot", tmp_path)
    assert status == 9 and "neither image nor working" in out


REAL = "unset -f e2fsck; "
UUID = "0f3b3a2e-6d8f-4a6e-9a0d-6a7d3c1b2e10"


@pytest.fixture
def filesystem(tmp_path: Path) -> Path:
    """A small ext4 with a file in it."""
    (tmp_path / "content").mkdir()
    (tmp_path / "content/file").write_text("kept")
    path = tmp_path / "ext4.img"
    with path.open("wb") as file:
        file.truncate(160 << 20)
    subprocess.run(["/sbin/mkfs.ext4", "-q", "-F", "-b", "4096", "-U", UUID, "-d", str(tmp_path / "content"),
                    str(path)], check=True)
    return path


def sectors(path: Path, *replaced: tuple[int, bytes]) -> bytes:
    """The first block, after some of its sectors were replaced."""
    with path.open("r+b") as file:
        for number, data in replaced:
            file.seek(number * 512)
            file.write(data)
        file.seek(0)
        return file.read(4096)


@pytest.mark.fault(32)
@pytest.mark.parametrize("newer", [2, 3])
def test_a_superblock_that_a_power_cut_tore_is_made_whole(tmp_path: Path, filesystem: Path, newer: int) -> None:
    before = sectors(filesystem)
    subprocess.run(["/sbin/tune2fs", "-c", "7", str(filesystem)], check=True, capture_output=True)
    after = sectors(filesystem)
    assert [n for n in range(8) if before[n * 512:][:512] != after[n * 512:][:512]] == [2, 3]
    sectors(filesystem, (5 - newer, before[(5 - newer) * 512:][:512]))
    assert subprocess.run(["/sbin/e2fsck", "-p", str(filesystem)], capture_output=True).returncode == 8
    status, out = sh(f"{REAL} k8r_check {filesystem} 2>/dev/null; echo $?", tmp_path)
    assert status == 0 and out.splitlines()[-1] == "0" and "is torn" in out
    assert subprocess.run(["/sbin/e2fsck", "-fn", str(filesystem)], capture_output=True).returncode == 0
    assert subprocess.run(["/sbin/debugfs", "-R", "cat file", str(filesystem)], capture_output=True).stdout == b"kept"


@pytest.mark.parametrize("gone", [(0, 1, 2, 3, 4, 5, 6, 7), (2,)])
def test_a_slot_that_is_half_written_is_not_made_a_file_system_from_a_copy(tmp_path: Path, filesystem: Path,
                                                                           gone: tuple[int, ...]) -> None:
    block = sectors(filesystem, *((n, bytes(512)) for n in gone))
    _, out = sh(f"{REAL} k8r_check {filesystem} 2>/dev/null; echo $?", tmp_path)
    assert out.splitlines()[-1] == "1" and sectors(filesystem) == block


@pytest.mark.parametrize("code", [4, 12])
def test_what_e2fsck_can_read_and_not_mend_is_not_overwritten_from_a_copy(tmp_path: Path, filesystem: Path,
                                                                         code: int) -> None:
    _, out = sh(f"k8r_check {filesystem}; echo $?", tmp_path, E2FSCK=str(code))
    assert out.splitlines() == [f"e2fsck -p {filesystem}", "1"]


def test_a_torn_superblock_is_known_by_its_copy(tmp_path: Path, filesystem: Path) -> None:
    """As where libblkid looks at checksums, which not every release does."""
    _, out = sh(f"k8r_probe() {{ :; }}; k8r_filesystem ../{filesystem}", tmp_path)
    assert out.strip() == UUID
