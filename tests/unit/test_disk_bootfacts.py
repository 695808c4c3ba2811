"""Which disk, which slot: from the initramfs's file, or from what is mounted. Names are found, never made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from k8r_agent.effects.bootfacts import Kernel, glance_for_twin, read_facts
from k8r_agent.effects.table import read_table
from k8r_agent.effects.twins import find_twin
from k8r_agent.effects.wholedisk import open_disk
from k8r_agent.errors import BootError
from k8r_agent.model import marker as markers
from k8r_agent.model.slots import Slot
from tests.fakes.flashed import MIB, as_disk, flashed_gpt, flashed_mbr, to_file
from tests.fakes.medium import Medium
from tests.unit.test_disk_table import recorded

NAMES = {"vda": "vda{}", "sda": "sda{}", "nvme0n1": "nvme0n1p{}", "mmcblk0": "mmcblk0p{}",
         "cciss!c0d0": "cciss!c0d0p{}"}
NINES = "99999999-0000-4000-8000-00000000000"  # IDs of somebody else's, but for the last digit


class Machine:
    """A sysfs of disks."""

    def __init__(self, root: Path) -> None:
        self.root, self.mounts, self.minor = root, "", 0
        for path in ("sys/class/block", "sys/dev/block", "dev"):
            (root / path).mkdir(parents=True)
        (root / "mountinfo").write_text("")

    def disk(self, name: str, medium: Medium, *, virtual: bool = False) -> None:
        place = self.root / "sys/devices" / ("virtual/block" if virtual else "pci0/block") / name
        self._node(place, name, medium.size)
        (place / "queue").mkdir()
        (place / "queue/logical_block_size").write_text(f"{medium.sector}\n")
        for p in as_disk(medium).partitions:
            part = NAMES.get(name, name + "p{}").format(p.number)
            self._node(place / part, part, p.size)
            (place / part / "partition").write_text(f"{p.number}\n")
            (place / part / "start").write_text(f"{p.start // 512}\n")
        (place / "holders").mkdir()
        node = self.root / "dev" / name.replace("!", "/")
        node.parent.mkdir(exist_ok=True)
        to_file(medium, node)

    def _node(self, place: Path, name: str, size: int) -> None:
        place.mkdir(parents=True)
        (place / "size").write_text(f"{size // 512}\n")
        (place / "dev").write_text(f"8:{self.minor}\n")
        (self.root / "sys/class/block" / name).symlink_to(place)
        (self.root / "sys/dev/block" / f"8:{self.minor}").symlink_to(place)
        self.minor += 1

    def mount(self, name: str, point: str, kind: str = "ext4") -> None:
        number = "0:99" if not name else (self.root / "sys/class/block" / name / "dev").read_text().strip()
        self.mounts += f"21 1 {number} / {point} rw - {kind} /dev/x rw\n"
        (self.root / "mountinfo").write_text(self.mounts)

    @property
    def kernel(self) -> Kernel:
        return Kernel(sys=self.root / "sys", dev=self.root / "dev", mountinfo=self.root / "mountinfo")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


FACTS = """slot=image
disk=vda
bootpart=vda1
rootpart=vda2
statepart=none
state=failed:no file system
duplicate=no
loader=systemd-boot
watchdog=none
"""


def test_what_the_initramfs_left(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "boot"
    path.write_text(FACTS)
    facts = read_facts(machine.kernel, path)
    assert facts.slot is Slot.IMAGE and facts.disk == "vda" and facts.rootpart == "vda2"
    assert facts.statepart is None and facts.duplicate is None and facts.watchdog is None
    assert facts.state == "failed:no file system"
    path.write_text(FACTS.replace("duplicate=no", "duplicate=sdb1") + "new-key=whatever\n")
    assert read_facts(machine.kernel, path).duplicate == "sdb1"


@pytest.mark.parametrize("text, why", [("", "slot, disk"), (FACTS.replace("image", "other"), "slot=other"),
                                       (FACTS.replace("rootpart=vda2\n", ""), "rootpart")])
def test_facts_that_are_none(machine: Machine, tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "boot").write_text(text)
    with pytest.raises(BootError) as failure:
        read_facts(machine.kernel, tmp_path / "boot")
    assert why in failure.value.why


@pytest.mark.fault(25)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("number, slot", [(2, Slot.IMAGE), (3, Slot.WORKING)])
def test_an_older_node_is_recognised_by_its_mounts(machine: Machine, name: str, number: int, slot: Slot) -> None:
    medium, _ = recorded(flashed_gpt(64 * MIB))
    machine.disk(name, medium)
    part = NAMES[name].format
    machine.mount(part(number), "/")
    machine.mount(part(1), "/boot/firmware", "vfat")
    machine.mount(part(4), "/var/lib/k8r")
    facts = read_facts(machine.kernel, machine.root / "no-facts")
    assert (facts.disk, facts.slot) == (name, slot)
    assert (facts.bootpart, facts.rootpart, facts.statepart) == (part(1), part(number), part(4))
    assert facts.state == "mounted" and facts.loader == ""
    found = machine.kernel.partitions(name)
    assert [p.number for p in found] == [1, 2, 3, 4] and found[2].name == part(3)
    assert machine.kernel.device(part(3)) == machine.root / "dev" / part(3).replace("!", "/")


def test_a_state_partition_that_was_mounted_later(machine: Machine, tmp_path: Path) -> None:
    machine.disk("vda", recorded(flashed_gpt(64 * MIB))[0])
    (tmp_path / "boot").write_text(FACTS)
    machine.mount("vda2", "/var/lib/k8r")  # the runner's own namespace: a bind mount of itself
    assert read_facts(machine.kernel, tmp_path / "boot").state == "failed:no file system"
    machine.mount("vda4", "/var/lib/k8r")
    facts = read_facts(machine.kernel, tmp_path / "boot")
    assert (facts.statepart, facts.state) == ("vda4", "mounted")


def test_other_systems_are_not_mistaken(machine: Machine) -> None:
    machine.disk("vda", flashed_gpt(64 * MIB))
    machine.disk("vdb", flashed_gpt(64 * MIB))
    with pytest.raises(BootError, match="which disk"):
        read_facts(machine.kernel, machine.root / "none")
    machine.mount("", "/", "overlay")
    machine.mount("vda1", "/boot/firmware", "vfat")
    with pytest.raises(BootError, match="which slot"):
        read_facts(machine.kernel, machine.root / "none")
    machine.mount("vdbp2", "/")
    with pytest.raises(BootError, match="which slot"):
        read_facts(machine.kernel, machine.root / "none")


def test_names_that_are_paths_are_refused(machine: Machine) -> None:
    with pytest.raises(BootError):
        machine.kernel.partitions("../../etc")


@pytest.mark.parametrize("sector", [512, 4096])
def test_twins(machine: Machine, sector: int) -> None:
    """A second card flashed from the same image is a twin; a stick with the same labels, an empty reader, an image on
    a loop device, and a DOS disk without an ID are none."""
    mine = flashed_gpt(64 * MIB, sector=sector)
    machine.disk("nvme0n1", mine)
    own = as_disk(mine, device=str(machine.root / "dev/nvme0n1"))

    def twin() -> tuple[str, str] | None:
        return find_twin(machine.kernel, own, udev=machine.root / "no-udev")
    assert twin() is None
    machine.disk("sda", flashed_gpt(32 * MIB, disk_id=NINES + "1", part_ids=(NINES + "2", NINES + "3")))
    machine.disk("loop0", mine, virtual=True)
    no_id = flashed_mbr(32 * MIB)
    zero = bytearray(no_id._at(0))
    zero[440:444] = bytes(4)
    no_id.durable[0] = bytes(zero)
    machine.disk("sdb", no_id)
    machine.disk("sdc", mine)  # a card reader whose card was taken out
    (machine.root / "sys/class/block/sdc/size").write_text("0\n")
    assert twin() is None
    machine.disk("mmcblk0", flashed_gpt(128 * MIB))
    found = twin()
    assert found and found[0] == "mmcblk0" and found[1] in {own.id, *(p.uuid for p in own.partitions)}


def noted(machine: Machine, name: str) -> None:
    """What udev writes of a disk and its partitions."""
    udev = machine.root / "udev"
    udev.mkdir(exist_ok=True)
    with open_disk(machine.kernel.device(name)) as raw:
        disk = read_table(raw, sector=machine.kernel.sector(name))
    ids = {name: ("TABLE", disk.id.removeprefix("0x"))}
    ids |= {part.name: ("ENTRY", next(p.uuid for p in disk.partitions if p.number == part.number))
            for part in machine.kernel.partitions(name)}
    for block, (kind, value) in ids.items():
        (udev / f"b{machine.kernel.number_of(block)}").write_text(
            f"S:disk/by-path/x\nI:1\nE:ID_FS_UUID=same\nE:ID_PART_{kind}_UUID={value}\nG:systemd\n")


@pytest.mark.fault(24)
@pytest.mark.parametrize("flashed", [flashed_gpt, flashed_mbr])
def test_a_glance_for_a_twin(machine: Machine, flashed: Callable[[int], Medium]) -> None:
    machine.disk("nvme0n1", flashed(64 * MIB))
    machine.disk("sda", flashed_gpt(32 * MIB, disk_id=NINES + "1", part_ids=(NINES + "2", NINES + "3")))
    machine.disk("loop0", flashed(64 * MIB), virtual=True)
    machine.disk("sdb", flashed(32 * MIB))

    def twin() -> str | None:
        return glance_for_twin(machine.kernel, "nvme0n1", udev=machine.root / "udev")
    assert twin() is None  # udev has noted nothing yet
    for name in ("nvme0n1", "sda", "loop0"):
        noted(machine, name)
    assert twin() is None
    noted(machine, "sdb")
    assert twin() == "sdb"
    assert glance_for_twin(machine.kernel, "gone", udev=machine.root / "udev") is None


def test_marker() -> None:
    uuid = markers.uuid_of_life("AAAA", "bbbb")
    assert uuid == markers.uuid_of_life("aaaa", "BBBB") != markers.uuid_of_life("aaaa", "bbbc")
    data = markers.build(markers.Marker(uuid=uuid, time=1800000000, disk="aaaa"))
    assert len(data) == 512 and markers.parse(data) == markers.Marker(uuid=uuid, time=1800000000, disk="aaaa")
    for damaged in (b"", b"\0" * 512, b"\xff" * 512, b"uuid=\n", b"uuid=../../x\n", b"time=1" + b"0" * 600):
        assert markers.parse(damaged).uuid == ""
