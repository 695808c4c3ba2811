"""The state partition on a real loop disk: made, found again, refused, adopted; full, damaged, read-only."""

from __future__ import annotations

import errno
import os
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from k8r_agent.config.settings import DiskSettings, Settings
from k8r_agent.effects.commands import commands
from k8r_agent.effects.disks import NodeDisks
from k8r_agent.effects.statefiles import StateDirectory
from k8r_agent.effects.statemount import StateMounts
from k8r_agent.effects.statepartition import NodeStatePartition
from k8r_agent.effects.wholedisk import open_disk
from k8r_agent.errors import NoState, Refused, StateError
from k8r_agent.model import marker as markers
from k8r_agent.model.layout import STATE
from k8r_agent.model.slots import Slot
from k8r_agent.ports.commands import Result
from k8r_agent.ports.step import World
from k8r_agent.steps.partition_disk import PartitionDisk
from tests.contract.test_disk_disks import Loop, partitioned, real
from tests.fakes.flashed import MIB, flashed_gpt
from tests.fakes.simple import Listener
from tests.fakes.statepartition import MemoryBootFiles

pytestmark = [pytest.mark.root, pytest.mark.loop]


@dataclass
class Rig:
    loop: Loop
    disks: NodeDisks
    boot_files: MemoryBootFiles
    files: StateDirectory
    state: NodeStatePartition
    path: Path

    @property
    def device(self) -> Path:
        return Path("/dev") / self.loop.name(STATE)

    def again(self, foreign: str = "refuse") -> NodeStatePartition:
        """Another process, after a reboot that did not mount the partition."""
        return state_partition(self.path, self.disks, self.boot_files, foreign)

    def permit(self) -> None:
        """As partition-disk does before the table write."""
        disk = self.disks.own()
        partition = disk.partition(STATE)
        assert partition
        self.state.permit(disk.id, partition.uuid, fresh=True)

    def umount(self) -> None:
        subprocess.run(["umount", str(self.path / "lib")], capture_output=True)
        subprocess.run(["umount", str(self.path / "hidden")], capture_output=True)


def state_partition(path: Path, disks: NodeDisks, boot_files: MemoryBootFiles, foreign: str) -> NodeStatePartition:
    mounts = StateMounts(commands(), root=path / "lib", hidden=path / "hidden", volatile=path / "ram",
                         systemd=path / "no-systemd")
    return NodeStatePartition(disks=disks, boot_files=boot_files, mounts=mounts, role="worker", foreign=foreign)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    loop = Loop(flashed_gpt(64 * MIB), tmp_path / "disk")
    disks = real(loop, tmp_path).disks
    assert isinstance(disks, NodeDisks)
    boot_files = MemoryBootFiles()
    files = StateDirectory(tmp_path / "lib", volatile=tmp_path / "ram")
    rig = Rig(loop, disks, boot_files, files, state_partition(tmp_path, disks, boot_files, "refuse"), tmp_path)
    try:
        partitioned(disks)
        rig.permit()
        yield rig
    finally:
        rig.umount()
        loop.close()


@pytest.mark.fault(30)
def test_first_boot(rig: Rig) -> None:
    files = rig.files
    assert not rig.state.mounted() and rig.state.marker() is None and not files.persistent()
    files.write("transaction.json", b"first-boot")
    files.append("events.jsonl", b"1\n")
    files.write("queue/r1.json", b"r1")
    rig.state.initialise()
    assert rig.state.mounted() and files.persistent()
    assert files.read("transaction.json") == b"first-boot" and files.read("events.jsonl") == b"1\n"
    assert files.names("queue") == ("r1.json",) and files.read("format") == b"1\n"
    assert StateDirectory(rig.path / "ram", mounted=lambda path: True).names("queue") == ()
    assert os.stat(rig.path / "lib").st_mode & 0o777 == 0o700 and not (rig.path / "hidden").exists()
    state = rig.disks.own().partition(STATE)
    assert state and rig.state.marker() == rig.disks.filesystem_uuid(state)
    marker = rig.boot_files.files[markers.PATH]
    assert len(marker) == 512 and marker.startswith(b"uuid=")
    rig.state.initialise()  # nothing to do
    files.write("identity/machine-id", b"precious")
    rig.umount()
    files.write("identity/machine-id", b"of a boot without it")
    rig.again().initialise()
    assert files.persistent() and files.read("identity/machine-id") == b"precious"


class Dies:
    """Runs programs until `at` more were started, then the process dies before or after that one."""

    def __init__(self, at: int, *, after: bool) -> None:
        self.left, self.after, self.real = at, after, commands()

    def run(self, argv: Sequence[str], **options: Any) -> Result:
        self.left -= 1
        if self.left < 0 and not self.after:
            raise KeyboardInterrupt
        result = self.real.run(argv, **options)
        if self.left < 0:
            raise KeyboardInterrupt
        return result


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
def test_killed_at_every_program(rig: Rig, after: bool) -> None:
    """mkfs, e2fsck, mount, umount …: whatever was the last one, the next attempt goes on from there."""
    at = 0
    while True:
        subprocess.run(["wipefs", "-aq", str(rig.device)], check=True)
        rig.boot_files.files.clear()
        rig.permit()
        rig.files.write("transaction.json", b"first-boot")
        dying = Dies(at, after=after)
        disks = NodeDisks(dying, facts=rig.path / "boot", udev=rig.path / "no-udev", virtual=True)
        mounts = StateMounts(dying, root=rig.path / "lib", hidden=rig.path / "hidden", volatile=rig.path / "ram",
                             systemd=rig.path / "none")
        state = NodeStatePartition(disks=disks, boot_files=rig.boot_files, mounts=mounts, role="worker",
                                   foreign="refuse")
        died = False
        try:
            state.initialise()
        except KeyboardInterrupt:
            died = True
        if at % 2:
            rig.umount()
        rig.again().initialise()
        assert rig.files.persistent() and rig.files.read("format") == b"1\n"
        assert rig.files.read("transaction.json") == b"first-boot"
        partition = rig.disks.own().partition(STATE)
        assert partition and rig.state.marker() == rig.disks.filesystem_uuid(partition)
        rig.umount()
        if not died:
            break
        at += 1
    assert at > 5
    print(f"\nkilled {'after' if after else 'before'} each of {at} programs")


def test_another_life(rig: Rig) -> None:
    other = str(uuid.uuid4())
    subprocess.run(["mkfs.ext4", "-q", "-U", other, "-L", "k8r-state", str(rig.device)], check=True)
    at = rig.path / "hidden"
    at.mkdir()
    subprocess.run(["mount", str(rig.device), str(at)], check=True)
    (at / "slots.json").write_text("old")
    (at / "queue").mkdir()
    (at / "queue/r1.json").write_text("old")
    (at / "identity").mkdir()
    (at / "identity/machine-id").write_text("precious")
    subprocess.run(["umount", str(at)], check=True)
    before = rig.device.read_bytes()
    with pytest.raises(Refused, match="another life") as failure:
        rig.state.initialise()
    assert "foreign_state" in failure.value.hint and rig.device.read_bytes() == before
    assert rig.state.marker() is None
    rig.again("adopt").initialise()
    assert rig.state.marker() == other and rig.files.read("identity/machine-id") == b"precious"
    assert rig.files.read("slots.json") is None and rig.files.names("queue") == ()


def first_boot(rig: Rig, foreign: str) -> None:
    """Of a disk that was flashed again: its own partition is twice as large now, so it would begin elsewhere."""
    subprocess.run(["partx", "-d", str(rig.loop.device)], check=True)
    with open_disk(rig.loop.device, write=True) as raw:
        for sector, data in flashed_gpt(64 * MIB).durable.items():
            raw.write(512 * sector, data)
        raw.flush()
    rig.loop.learn()
    rig.loop.facts(rig.path / "boot", Slot.IMAGE)
    rig.boot_files.files.clear()
    nothing: Any = None
    settings = Settings(disk=DiskSettings(image_size=12 * MIB, state_size=16 * MIB, foreign_state=foreign))
    state = rig.again(foreign)
    PartitionDisk().apply(World(
        settings=settings, disks=rig.disks, boot=nothing, state=state, files=rig.files, slots=nothing, bundles=nothing,
        identity=nothing, machine=nothing, report=Listener()))
    state.initialise()


@pytest.mark.fault(29)
def test_another_life_elsewhere(rig: Rig) -> None:
    """Refused before anything is written, adopted, and given up with the command that the error names."""
    rig.state.initialise()
    rig.files.write("identity/machine-id", b"precious")
    rig.umount()
    before = rig.disks.own().partition(STATE)
    assert before
    content = rig.device.read_bytes()
    with pytest.raises(Refused, match="another life") as failure:
        first_boot(rig, "refuse")
    with open_disk(rig.loop.device) as raw:
        assert raw.read(before.start, before.size) == content and rig.disks.own().partition(STATE) is None
    first_boot(rig, "adopt")
    after = rig.disks.own().partition(STATE)
    assert after and (after.start, after.size) == (before.start, before.size)
    assert rig.files.read("identity/machine-id") == b"precious"
    rig.umount()
    subprocess.run(failure.value.hint.split("`")[1].split(), check=True)
    first_boot(rig, "refuse")
    after = rig.disks.own().partition(STATE)
    assert after and after.size == 16 * MIB and rig.files.names("identity") == ()


@pytest.mark.fault(30)
@pytest.mark.parametrize("damage", ["superblock", "all", "other uuid", "swap"])
def test_lost_after_it_was_initialised(rig: Rig, damage: str) -> None:
    rig.state.initialise()
    rig.umount()
    if damage == "superblock":
        with rig.device.open("r+b") as device:
            device.write(bytes(4096))
    elif damage == "all":
        with rig.device.open("r+b") as device:
            device.write(bytes(4 * MIB))
    elif damage == "other uuid":
        subprocess.run(["e2fsck", "-fp", str(rig.device)], capture_output=True)  # tune2fs wants it fresh, to a second
        subprocess.run(["tune2fs", "-U", str(uuid.uuid4()), str(rig.device)], check=True, capture_output=True,
                       input=b"y\n")
    else:
        subprocess.run(["wipefs", "-aq", str(rig.device)], check=True)
        subprocess.run(["mkswap", str(rig.device)], check=True, capture_output=True)
    before = rig.device.read_bytes()
    for foreign in ("refuse", "adopt"):
        with pytest.raises(NoState) as failure:
            rig.again(foreign).initialise()
        assert "never formatted" in failure.value.hint
    assert rig.device.read_bytes() == before and not rig.files.persistent()
    rig.files.write("transaction.json", b"in RAM")  # the node lives on
    rig.loop.facts(rig.path / "boot", Slot.WORKING)
    rig.boot_files.files.clear()
    for slot in Slot:  # the marker is gone as well, and the slot that runs makes no difference
        rig.loop.facts(rig.path / "boot", slot)
        with pytest.raises((NoState, Refused), match="both gone" if damage in ("superblock", "all") else ""):
            rig.again().initialise()
        assert rig.device.read_bytes() == before


def test_damaged_beyond_repair_by_itself(rig: Rig) -> None:
    rig.state.initialise()
    rig.umount()
    with rig.device.open("r+b") as device:  # block and inode bitmaps, inode tables
        device.seek(16384)
        device.write(os.urandom(512 << 10))
    before = rig.device.read_bytes()[:1024]
    with pytest.raises(NoState) as failure:
        rig.again().initialise()
    assert "damaged" in failure.value.why and rig.device.read_bytes()[:1024] == before
    assert not rig.files.persistent()


def test_full_and_read_only(rig: Rig) -> None:
    rig.state.initialise()
    with pytest.raises(StateError, match="No space left"):
        for n in range(100):
            rig.files.write(f"identity/{n}", os.urandom(1 << 20))
    rig.files.remove("identity/0")
    rig.files.write("transaction.json", b"after")
    subprocess.run(["mount", "-o", "remount,ro", str(rig.path / "lib")], check=True)
    with pytest.raises(StateError) as failure:
        rig.files.write("transaction.json", b"x")
    cause = failure.value.__cause__
    assert isinstance(cause, OSError) and cause.errno == errno.EROFS
    assert rig.files.read("transaction.json") == b"after"


def test_the_disk_dies_under_it(rig: Rig) -> None:
    """Writes fail: the error says so, the file that was there is never half of something else."""
    rig.state.initialise()
    rig.files.write("transaction.json", b"old")
    subprocess.run(["sync", "-f", str(rig.path / "lib")], check=True)
    partition = rig.disks.own().partition(STATE)
    assert partition
    (rig.path / "disk").rename(rig.path / "gone")
    with (rig.path / "gone").open("r+b") as file:
        file.truncate(partition.start)
        subprocess.run(["chattr", "+i", str(rig.path / "gone")], check=True)  # nor can it grow again
    try:
        with pytest.raises(StateError) as failure:
            for _ in range(20):
                rig.files.write("transaction.json", b"new" * 10000)
                rig.files.append("events.jsonl", bytes(100000))
        cause = failure.value.__cause__
        assert isinstance(cause, OSError) and cause.errno in (errno.EIO, errno.EROFS)
        assert "journalctl -k" in failure.value.hint
    finally:
        subprocess.run(["chattr", "-i", str(rig.path / "gone")], check=True)
