"""The judge of recorded lives: small disks with a real table and real file systems, and logs made by hand."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from k8r_agent.boot import grubfiles, loaderfiles
from k8r_agent.model.slots import Slot
from tests.contract.test_lab_bootjudge import KNOWN, fat
from tests.contract.test_lab_writelog import Step, write_log
from tests.fakes.assets import files_of
from tests.fakes.golden import assets_of
from tests.lab import sectors
from tests.lab.operations import MARK, MARK_AT
from tests.lab.sectors import MIB, Record
from tests.lab.writelog import FLUSH, BadLog

# Partition → start and size, MiB. The state partition is large enough for the copy of a superblock.
PLACES = {1: (1, 40), 2: (41, 1), 3: (42, 1), 4: (43, 160)}
UUID = "0F3B3A2E-6D8F-4A6E-9A0D-6A7D3C1B2E10"
SETTINGS = b"# a person's own settings"
BLOCK_0 = bytes(1080) + b"\x53\xef" + bytes(4096 - 1082)
IMAGE, WORKING = (PLACES[n][0] * MIB for n in (2, 3))


def decision(*, image_offered: bool = True, primary: Slot = Slot.WORKING, tries: int = 3) -> bytes:
    return grubfiles.render_decision(
        grubfiles.GrubDecision(primary=primary, image_offered=image_offered, tries=tries))


class Life:
    """A node with GRUB whose working slot is the primary, and what it writes from then on."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "grub-gpt"
        self.directory.mkdir()
        self.steps: list[Step] = []
        files = loaderfiles.initial_files("grub", assets_of(1), efi=b"EFI program")
        files |= {f"working/a/{name}": data for name, data in files_of(assets_of(2)).items()}
        files |= {**loaderfiles.small_files(Slot.WORKING, "a", assets_of(2)), grubfiles.ENV: decision(),
                  "k8r.toml": SETTINGS}
        boot = fat(directory / "boot.img", files, size=PLACES[1][1] * MIB).read_bytes()
        self.env = MIB + boot.index(grubfiles.BLOCK_MARK.encode() + b"primary=")
        self.settings, self.loader = MIB + boot.index(SETTINGS), MIB + boot.index(b"EFI program")
        self.first = boot[:512]
        disk = self.directory / "start.img"
        with disk.open("wb") as file:
            file.truncate(205 * MIB)
        rows = "".join(f"start={start}MiB,size={size}MiB\n" for start, size in PLACES.values())
        subprocess.run(["/sbin/sfdisk", "-q", str(disk)], input=f"label: gpt\n{rows}".encode(), check=True)
        self.write(MIB, boot, disk)
        self.write(IMAGE, BLOCK_0, disk)
        self.write(WORKING, BLOCK_0, disk)
        (self.directory / "digests.json").write_text(json.dumps(KNOWN))

    @staticmethod
    def write(at: int, data: bytes, disk: Path) -> None:
        with disk.open("r+b") as file:
            file.seek(at)
            file.write(data)

    def does(self, at: int, data: bytes) -> None:
        self.steps += [(0, at, data), (FLUSH, 0, b"")]

    def mark(self, text: str) -> None:
        self.does(MARK_AT, (MARK + text.encode()).ljust(512))

    def operation(self, name: str, *writes: tuple[int, bytes], durable: bool = True) -> None:
        """`durable`: is the last one of its writes?"""
        self.mark(f"begin {name}")
        for at, data in writes:
            self.does(at, data)
        if not durable:
            self.steps.pop()
        self.mark(f"end {name}")

    def noted(self, at: int) -> tuple[int, bytes]:
        """A write of the boot sector in which that byte is another one."""
        return MIB, self.first[:at] + bytes([self.first[at] ^ 1]) + self.first[at + 1:]

    def record(self) -> Record:
        write_log(self.directory / "disk.log", self.steps)
        return Record(self.directory)


def test_an_image_slot_may_be_half_written_while_it_is_not_offered(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.does(life.env, decision(image_offered=False))
    life.does(IMAGE, bytes(4096))
    life.does(life.env, decision(image_offered=False))
    life.does(IMAGE, BLOCK_0)
    life.does(life.env, decision())
    figures = sectors.boot_partition(life.record())
    assert figures.states > 6 and figures.epochs == 3 and not figures.wrong


@pytest.mark.parametrize("offered", [True, False])
def test_lost_boots_that_would_end_in_a_half_written_slot_are_told(tmp_path: Path, offered: bool) -> None:
    """Not withdrawn before it was written, or offered again too early."""
    life = Life(tmp_path)
    if not offered:
        life.does(life.env, decision(image_offered=False))
    life.does(IMAGE, bytes(4096))
    life.does(life.env, decision(primary=Slot.WORKING))
    figures = sectors.boot_partition(life.record())
    assert figures.wrong and all("boots lost" in line and "image/a" in line for line in figures.wrong)


def test_another_slot_than_before_or_after_is_told(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.steps += [(0, life.env, decision(primary=Slot.IMAGE)), (0, life.env, decision())]
    figures = sectors.boot_partition(life.record())
    assert any("instead of" in line for line in figures.wrong)


def told(figures: sectors.Figures) -> set[str]:
    """The operations of which something is wrong."""
    return {line.partition(") ")[2].partition(":")[0] for line in figures.wrong if line.startswith("[")}


def test_a_boot_operation_leaves_old_or_new_over_all_its_flushes(tmp_path: Path) -> None:
    """Between two flushes each of these is one change; over all of them three bring out something else."""
    life = Life(tmp_path)
    life.operation("arm", (life.env, decision(primary=Slot.IMAGE)))
    life.operation("disarm", (life.env, decision(primary=Slot.IMAGE)), (life.env, decision()))
    life.operation("third slot", (life.env, decision(primary=Slot.IMAGE)), (life.env, decision()))
    life.operation("third way", (life.env, decision(image_offered=False)), (life.env, decision(primary=Slot.IMAGE)))
    life.operation("primary working", (life.env, decision(tries=4)), (life.env, decision()))
    life.operation("spend tries", (life.env, decision(tries=1)))
    life.operation("refill tries", (life.env, decision(tries=4)), (life.env, decision()))
    life.operation("refill tries for ever", (life.env, decision(image_offered=False)), (life.env, decision()))
    life.operation("third number of tries", (life.env, decision(tries=4)), (life.env, decision()))
    life.operation("nothing")
    figures = sectors.boot_partition(life.record())
    assert told(figures) == {"third slot", "third way", "refill tries for ever", "third number of tries"}
    assert figures.checks["states: arm"] >= 3 and figures.checks["states: nothing (no change)"] == 0


def test_what_an_operation_writes_besides_decisions_is_old_or_new(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.operation("remark in k8r.toml", (life.settings, b"old or new".ljust(512)))
    life.operation("spoil loader", (life.loader, b"two of".ljust(512)))
    life.operation("no remark", (life.settings, b"half".ljust(512)), (life.settings, SETTINGS.ljust(512, b"\0")))
    life.operation("mend loader", (life.loader, b"a third".ljust(512)), (life.loader, b"EFI program".ljust(512)))
    assert told(sectors.boot_partition(life.record())) == {"no remark", "mend loader"}


def test_an_effect_that_a_cut_can_lose_after_its_operation_is_told(tmp_path: Path) -> None:
    """In flight at the end mark, or not even written; but Linux may note that the partition is read-only now."""
    life = Life(tmp_path)
    life.operation("good", (life.env, decision(primary=Slot.IMAGE)), life.noted(0x41), durable=False)
    life.operation("in flight", (life.env, decision()), durable=False)
    life.operation("in flight without effect", life.noted(0x60), durable=False)
    life.operation("late", (life.env, decision(tries=2)))
    life.does(life.env, decision(tries=1))
    figures = sectors.boot_partition(life.record())
    assert told(figures) == {"in flight", "in flight without effect", "after late"}
    assert "not durable at its end: 1 sectors" in figures.wrong[0]


def test_marks_that_do_not_match_or_are_missing_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                         capsys: pytest.CaptureFixture[str]) -> None:
    life = Life(tmp_path)
    life.does(life.env, decision(primary=Slot.IMAGE))
    life.record()
    monkeypatch.setattr("sys.argv", ["sectors", str(life.directory), "--only", "boot"])
    assert sectors.main() == 1 and "no boot operation is marked" in capsys.readouterr().out
    life.mark("begin arm")
    with pytest.raises(BadLog, match="do not match"):
        sectors.boot_partition(life.record())


def test_a_torn_superblock_of_the_state_partition_is_what_the_initramfs_mends(tmp_path: Path) -> None:
    life = Life(tmp_path)
    state = tmp_path / "state.img"
    subprocess.run(["/sbin/mkfs.ext4", "-q", "-b", "4096", str(state), "160M"], check=True, capture_output=True)
    life.write(PLACES[4][0] * MIB, state.read_bytes(), life.directory / "start.img")
    subprocess.run(["/sbin/tune2fs", "-c", "7", str(state)], check=True, capture_output=True)
    life.does(PLACES[4][0] * MIB + 1536, state.read_bytes()[1536:2048])
    record = life.record()
    figures = _state(record)
    assert not figures.wrong and figures.checks["superblock torn, taken from its copy"]
    (record.directory / "disk.log").unlink()
    life.does(PLACES[4][0] * MIB + 1024, bytes(512))
    assert _state(life.record()).wrong, "without a magic number nothing is mended"


def _state(record: Record) -> sectors.Figures:
    found = pytest.MonkeyPatch()
    try:
        found.setattr(sectors, "_marked", lambda record: 0)
        return sectors.state_partition(record)
    finally:
        found.undo()


def test_the_tail_of_the_state_partition_is_no_table(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.does(204 * MIB, b"x" * 4096)
    assert sectors.partition_table(life.record()).states == 0
    first = (life.directory / "start.img").read_bytes()[512:1024]
    life.does(512, bytes(512))
    life.does(512, first)
    figures = sectors.partition_table(life.record())
    assert figures.states > 2 and any("GRUB" in line for line in figures.wrong)


def test_a_boot_partition_that_grub_names_and_linux_does_not_know_is_told(tmp_path: Path) -> None:
    """Entries after the header: GRUB, which looks at no sums, gives the old name, Linux has the new table."""
    life = Life(tmp_path)
    start, other = life.directory / "start.img", tmp_path / "other.img"
    with other.open("wb") as file:
        file.truncate(start.stat().st_size)
        file.write(start.read_bytes()[:MIB])
        file.seek(-MIB, 2)
        file.write(start.read_bytes()[-MIB:])
    subprocess.run(["/sbin/sfdisk", "-q", "--part-uuid", str(other), "1", UUID], check=True)
    new = other.read_bytes()
    end = len(new) - sectors.TABLE
    life.does(end, new[end:])
    good = len(life.steps)
    life.does(1024, new[1024:sectors.TABLE])
    life.does(512, new[512:1024])
    assert not sectors.partition_table(life.record()).wrong
    life.steps[good:] = []
    life.does(512, new[512:1024])
    life.does(1024, new[1024:sectors.TABLE])
    assert any("of GRUB's boot partition" in line for line in sectors.partition_table(life.record()).wrong)
