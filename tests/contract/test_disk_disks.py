"""The contract of Disks, for the fake and for a real loop disk whose partitions the kernel was told of."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from k8r_agent.effects.bootfacts import Kernel
from k8r_agent.effects.commands import commands
from k8r_agent.effects.disks import NodeDisks
from k8r_agent.effects.table import read_table
from k8r_agent.effects.wholedisk import open_disk, tell_kernel
from k8r_agent.errors import BootError, DiskAmbiguous, DiskError, DiskTooSmall, Protected, SlotBusy
from k8r_agent.model import superblock
from k8r_agent.model.layout import BOOT, IMAGE, STATE, WORKING, Disk, Partition
from k8r_agent.model.partitioning import Layout, plan
from k8r_agent.model.slots import Slot
from k8r_agent.ports.blockdev import Disks
from tests.fakes.disks import FakeDisks
from tests.fakes.flashed import MIB, flashed_gpt, flashed_mbr, to_file
from tests.fakes.medium import Medium

SIZE = 64 * MIB


@dataclass
class Rig:
    """`boot(slot)` as a reboot into that slot; `primary` is what the boot backend would say."""

    disks: Disks
    boot: Callable[[Slot], None]
    primary: Slot = Slot.IMAGE


def fake(medium: Medium) -> Rig:
    disks = FakeDisks(medium)
    rig = Rig(disks, disks.boot)
    disks.primary = lambda: rig.primary
    return rig


class Loop:
    """A loop disk. The host's kernel may not know tables, but it takes partitions by BLKPG."""

    def __init__(self, medium: Medium, path: Path) -> None:
        to_file(medium, path)
        done = subprocess.run(["losetup", "--find", "--show", "--partscan", "--sector-size", str(medium.sector),
                               str(path)], capture_output=True, text=True, check=True)
        self.device = Path(done.stdout.strip())
        # A test that was killed may have left it read-only; the kernel keeps that.
        subprocess.run(["blockdev", "--setrw", str(self.device)], check=True)
        self.kernel = Kernel()
        try:
            self.learn()
        except BaseException:
            self.close()
            raise

    def learn(self) -> None:
        with open_disk(self.device) as disk:
            found = read_table(disk, sector=self.kernel.sector(self.device.name))
            tell_kernel(disk, self.kernel.partitions(self.device.name), found.partitions)

    def close(self) -> None:
        # partitions first: devices of partitions that the kernel does not scan outlive losetup -d
        subprocess.run(["partx", "-d", str(self.device)], capture_output=True)
        subprocess.run(["losetup", "-d", str(self.device)], check=True)

    def name(self, number: int) -> str:
        return next((p.name for p in self.kernel.partitions(self.device.name) if p.number == number), "none")

    def facts(self, path: Path, slot: Slot, **more: str) -> None:
        values = {"slot": str(slot), "disk": self.device.name, "bootpart": self.name(BOOT),
                  "rootpart": self.name(IMAGE if slot is Slot.IMAGE else WORKING), "statepart": self.name(STATE),
                  "state": "absent", "duplicate": "no", "loader": "systemd-boot", "watchdog": "none", **more}
        path.write_text("".join(f"{key}={value}\n" for key, value in values.items()))


def real(loop: Loop, tmp_path: Path, *, virtual: bool = True) -> Rig:
    rig: Rig
    facts = tmp_path / "boot"
    loop.facts(facts, Slot.IMAGE)
    disks = NodeDisks(commands(), primary=lambda: rig.primary, facts=facts, udev=tmp_path / "no-udev",
                      virtual=virtual)
    rig = Rig(disks, lambda slot: loop.facts(facts, slot))
    return rig


MEDIA: dict[str, Callable[[], Medium]] = {
    "gpt": lambda: flashed_gpt(SIZE, leftovers=True), "dos": lambda: flashed_mbr(SIZE),
    "gpt-4kn": lambda: flashed_gpt(SIZE, sector=4096),
}


@pytest.fixture(params=[*(f"fake-{m}" for m in MEDIA), *(
    pytest.param(f"loop-{m}", marks=[pytest.mark.root, pytest.mark.loop]) for m in MEDIA)])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    kind, _, name = str(request.param).partition("-")
    if kind == "fake":
        yield fake(MEDIA[name]())
        return
    loop = Loop(MEDIA[name](), tmp_path / "disk")
    try:
        yield real(loop, tmp_path)
    finally:
        loop.close()


def wanted(disk: Disk) -> Layout:
    layout = plan(disk, image_size=12 * MIB, state_size=8 * MIB, role="worker", new_id=lambda: str(uuid.uuid4()))
    assert layout is not None
    return layout


def partitioned(disks: Disks) -> Disk:
    disk = disks.own()
    layout = wanted(disk)
    return disks.write_table(disk, layout.partitions, new_id=layout.id)


def part(disk: Disk, number: int) -> Partition:
    found = disk.partition(number)
    assert found is not None
    return found


def test_a_flashed_disk_is_seen(rig: Rig) -> None:
    disk, facts = rig.disks.own(), rig.disks.facts()
    assert [p.number for p in disk.partitions] == [1, 2] and disk.size == SIZE
    assert disk.device.name == facts.disk and part(disk, 2).device == disk.device.parent / facts.rootpart
    assert disk.fault == ("backup table: not at the end of the disk" if disk.table == "gpt" else "")


def test_the_table_is_written_and_in_use(rig: Rig) -> None:
    before = rig.disks.own()
    after = partitioned(rig.disks)
    assert not after.fault and after.id != before.id
    assert [p.number for p in after.partitions if p.device] == [1, 2, 3, 4]
    assert {p.uuid for p in before.partitions} & {p.uuid for p in after.partitions} == set()
    with rig.disks.open(part(after, WORKING)) as device:
        assert device.size == part(after, WORKING).size
    with rig.disks.open(part(after, IMAGE)) as device:
        assert device.size == part(after, IMAGE).size == 12 * MIB
    again = rig.disks.write_table(after, after.partitions, new_id=after.id)
    assert again == after


def test_no_smaller_disk_is_touched(rig: Rig) -> None:
    disk = rig.disks.own()
    with pytest.raises(DiskTooSmall):
        plan(disk, image_size=SIZE, state_size=MIB, role="worker", new_id=lambda: "x")


def test_writing_reading_and_what_is_protected(rig: Rig) -> None:
    disk = partitioned(rig.disks)
    data = bytes(range(256)) * 16
    with rig.disks.open(part(disk, WORKING), write=True) as device:
        device.write(8192, data)
        device.flush()
        device.drop_cache()
        assert device.read(8192, 4096) == data
    with rig.disks.open(part(disk, WORKING)) as device:
        assert device.read(8192, 4096) == data
    for number in (BOOT, IMAGE, STATE):  # running: image
        with pytest.raises(Protected), rig.disks.open(part(disk, number), write=True):
            pass
    rig.primary = Slot.WORKING
    with pytest.raises(Protected), rig.disks.open(part(disk, WORKING), write=True):
        pass
    for wrong in (replace(part(disk, WORKING), start=part(disk, WORKING).start + MIB),
                  replace(part(disk, WORKING), number=7)):
        with pytest.raises(Protected), rig.disks.open(wrong):
            pass


def test_only_the_state_partition_is_formatted_and_once(rig: Rig) -> None:
    disk = partitioned(rig.disks)
    state, ids = part(disk, STATE), [str(uuid.uuid4()) for _ in range(2)]
    assert rig.disks.signature(state) == "" and rig.disks.filesystem_uuid(state) == ""
    for number in (BOOT, IMAGE, WORKING):
        with pytest.raises(Protected):
            rig.disks.make_filesystem(part(disk, number), label="k8r-state", uuid=ids[0])
    rig.disks.make_filesystem(state, label="k8r-state", uuid=ids[0])
    assert rig.disks.signature(state) == "ext4 k8r-state" and rig.disks.filesystem_uuid(state) == ids[0]
    rig.disks.make_filesystem(state, label="k8r-state", uuid=ids[0])  # the same call again, after an interruption
    with pytest.raises(Protected, match="not empty"):
        rig.disks.make_filesystem(state, label="k8r-state", uuid=ids[1])
    with rig.disks.open(state) as device:
        found = superblock.parse(device.read(1024, 1024))
    assert found and found.never_used and found.uuid == ids[0] and found.label == "k8r-state"
    assert 0 <= state.size - found.size < MIB


def test_only_the_running_working_slot_is_grown(rig: Rig) -> None:
    partitioned(rig.disks)
    with pytest.raises(Protected):
        rig.disks.grow_root()


# the real one

@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    loop = Loop(flashed_gpt(SIZE), tmp_path / "disk")
    yield loop
    loop.close()


def on_device(loop: Loop, number: int) -> Path:
    return Path("/dev") / loop.name(number)


@pytest.mark.root
@pytest.mark.loop
def test_a_used_partition_grows_and_is_not_written(loop: Loop, tmp_path: Path) -> None:
    """p2 is mounted while the table is replaced, as on the first boot; p3 while somebody wants to write it."""
    rig, at = real(loop, tmp_path), tmp_path / "mnt"
    at.mkdir()
    subprocess.run(["mkfs.ext4", "-q", str(on_device(loop, IMAGE))], check=True)
    subprocess.run(["mount", "-o", "ro,noload", str(on_device(loop, IMAGE)), str(at)], check=True)
    try:
        disk = partitioned(rig.disks)
        assert not disk.fault
    finally:
        subprocess.run(["umount", str(at)], check=True)
    subprocess.run(["mkfs.ext4", "-q", str(on_device(loop, WORKING))], check=True)
    subprocess.run(["mount", str(on_device(loop, WORKING)), str(at)], check=True)
    try:
        with pytest.raises(SlotBusy, match="in use") as failure, rig.disks.open(part(disk, WORKING), write=True):
            pass
        assert str(at) in failure.value.why
        with rig.disks.open(part(disk, WORKING)) as device:
            assert superblock.parse(device.read(1024, 1024))
    finally:
        subprocess.run(["umount", str(at)], check=True)


@pytest.mark.root
@pytest.mark.loop
def test_an_interrupted_or_a_used_filesystem(loop: Loop, tmp_path: Path) -> None:
    rig, at, uid = real(loop, tmp_path), tmp_path / "mnt", str(uuid.uuid4())
    at.mkdir()
    state = part(partitioned(rig.disks), STATE)
    rig.disks.make_filesystem(state, label="k8r-state", uuid=uid)
    with on_device(loop, STATE).open("r+b") as device:  # the cut came before all of it was there
        device.seek(4096)
        device.write(bytes(1 << 20))
    assert subprocess.run(["e2fsck", "-fn", str(on_device(loop, STATE))], capture_output=True).returncode != 0
    rig.disks.make_filesystem(state, label="k8r-state", uuid=uid)
    assert subprocess.run(["e2fsck", "-fn", str(on_device(loop, STATE))], capture_output=True).returncode == 0
    with on_device(loop, STATE).open("r+b") as device:  # only the first half of the superblock
        device.seek(1536)
        device.write(bytes(512))
    assert "ext4" in rig.disks.signature(state)  # whether or not this libblkid looks at checksums
    rig.disks.make_filesystem(state, label="k8r-state", uuid=uid)
    assert rig.disks.signature(state) == "ext4 k8r-state"
    subprocess.run(["mount", str(on_device(loop, STATE)), str(at)], check=True)
    (at / "precious").write_text("x")
    subprocess.run(["umount", str(at)], check=True)
    with pytest.raises(Protected):
        rig.disks.make_filesystem(state, label="k8r-state", uuid=uid)
    subprocess.run(["e2fsck", "-fp", str(on_device(loop, STATE))], check=True)  # resets the mount count
    with pytest.raises(Protected):
        rig.disks.make_filesystem(state, label="k8r-state", uuid=uid)


@pytest.mark.root
@pytest.mark.loop
@pytest.mark.parametrize("what", ["swap", "luks", "gpt"])
def test_foreign_signatures(loop: Loop, tmp_path: Path, what: str) -> None:
    rig = real(loop, tmp_path)
    state = part(partitioned(rig.disks), STATE)
    device = on_device(loop, STATE)
    if what == "swap":
        subprocess.run(["mkswap", str(device)], check=True, capture_output=True)
    elif what == "gpt":
        subprocess.run(["sfdisk", "-q", str(device)], input=b"label: gpt\n", check=True, capture_output=True)
    else:
        with device.open("r+b") as file:
            file.write(b"LUKS\xba\xbe\x00\x01")
    assert rig.disks.signature(state)
    with pytest.raises(Protected, match="not empty"):
        rig.disks.make_filesystem(state, label="k8r-state", uuid=str(uuid.uuid4()))


@pytest.mark.fault(24)
@pytest.mark.root
@pytest.mark.loop
def test_two_disks_flashed_from_one_image(loop: Loop, tmp_path: Path) -> None:
    rig = real(loop, tmp_path)
    other = Loop(flashed_gpt(SIZE * 2), tmp_path / "stick")
    try:
        with pytest.raises(DiskAmbiguous) as failure:
            partitioned(rig.disks)
        assert str(loop.device) in failure.value.what and str(other.device) in failure.value.what
        assert "11111111-2222" in failure.value.why or "aaaaaaaa" in failure.value.why
        assert len(rig.disks.own().partitions) == 2
    finally:
        other.close()
    disk = partitioned(rig.disks)
    again = Loop(flashed_gpt(SIZE), tmp_path / "stick")  # same labels, other IDs by now
    try:
        rig.disks.assert_writable()
        with rig.disks.open(part(disk, WORKING), write=True):
            pass
    finally:
        again.close()


@pytest.mark.root
@pytest.mark.loop
def test_what_the_initramfs_saw_counts_until_the_next_boot(loop: Loop, tmp_path: Path) -> None:
    rig = real(loop, tmp_path)
    loop.facts(tmp_path / "boot", Slot.IMAGE, duplicate="sdb")
    with pytest.raises(DiskAmbiguous, match="sdb"):
        rig.disks.assert_writable()


@pytest.mark.root
@pytest.mark.loop
def test_a_disk_that_went_away(loop: Loop, tmp_path: Path) -> None:
    rig = real(loop, tmp_path)
    loop.facts(tmp_path / "boot", Slot.IMAGE, disk="nvme7n1")
    with pytest.raises(BootError, match="nvme7n1"):
        rig.disks.own()


@pytest.mark.root
@pytest.mark.loop
def test_an_unreadable_partition_is_not_an_empty_one(loop: Loop, tmp_path: Path) -> None:
    """libblkid finds nothing on a partition that cannot be read; that must not end in mkfs."""
    rig = real(loop, tmp_path)
    disk = partitioned(rig.disks)
    state = part(disk, STATE)
    kept = (tmp_path / "disk").read_bytes()[state.end:]
    with (tmp_path / "disk").open("r+b") as file:  # the backing file ends where the partition begins: EIO
        file.truncate(state.start)
    probe = subprocess.run(["blkid", "-p", str(on_device(loop, STATE))], capture_output=True)
    assert probe.returncode == 2, "what libblkid says of it"
    for call in (rig.disks.signature, rig.disks.filesystem_uuid,
                 lambda p: rig.disks.make_filesystem(p, label="k8r-state", uuid=str(uuid.uuid4()))):
        with pytest.raises(DiskError):
            call(state)
    with (tmp_path / "disk").open("r+b") as file:
        file.seek(state.end)
        file.write(kept)


@pytest.mark.root
@pytest.mark.loop
def test_a_disk_that_fails_while_the_table_is_written(loop: Loop, tmp_path: Path) -> None:
    """Its end cannot be written: the backup comes first, so the old table is untouched."""
    rig = real(loop, tmp_path)
    before = rig.disks.own()
    subprocess.run(["blockdev", "--setro", str(loop.device)], check=True)
    with pytest.raises(DiskError, match=r"cannot (write|open|flush)"):
        partitioned(rig.disks)
    subprocess.run(["blockdev", "--setrw", str(loop.device)], check=True)
    assert rig.disks.own() == before
