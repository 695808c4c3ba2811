"""The boot loaders alone: real firmware, real systemd-boot and GRUB programs, one FAT, and a kernel that need not come
further than to its command line. A machine runs for seconds, so every kind of damage has a boot of its own."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from k8r_agent.boot import grubimage, loaderfiles, sdfiles
from k8r_agent.boot.grubfiles import ENV, GrubDecision, render_decision
from k8r_agent.boot.programs import SD_BOOT
from k8r_agent.build import assets, fat, loaders
from k8r_agent.effects.commands import commands
from k8r_agent.model.boot import BootAssets
from k8r_agent.model.slots import Slot
from tests.lab.accel import acceleration, firmware, pflash
from tests.lab.serial import Serial
from tests.node.conftest import BUILD

pytestmark = [pytest.mark.node, pytest.mark.long]
MIB = 1 << 20
SIZE = 360 * MIB
BOOT = 240.0  # seconds to a kernel's first lines, emulated on a busy machine
Files = dict[str, bytes]
Damage = Callable[[Files], None]


@pytest.fixture(scope="module")
def golden() -> BootAssets:
    directory = BUILD / "release-1" / "boot"
    if not directory.is_dir():
        pytest.skip("no images: make images")
    return assets.read_directory(directory)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """As they are now, not as the images have them."""
    work, made = tmp_path_factory.mktemp("programs"), {}
    for name, program in ((loaders.GRUB, grubimage.LOADER), (loaders.GUARD_NAME, grubimage.GUARD)):
        loaders._make(program, work / f"{name}.efi", work / name, commands())
        made[name] = (work / f"{name}.efi").read_bytes()
    image = BUILD / "release-1" / "image.img"
    made[loaders.SD_BOOT] = loaders.take_from(image, 0, loaders.SD_BOOT, work, commands())
    return made


class Machine:
    def __init__(self, directory: Path, golden: BootAssets, programs: Files, loader: str) -> None:
        self.directory, self.golden, self.programs, self.loader = directory, golden, programs, loader

    def files(self, primary: Slot) -> Files:
        """A node between the lives of its slots: both complete."""
        efi = self.programs[self.loader]
        guard = self.programs[loaders.GUARD_NAME] if self.loader == loaders.SD_BOOT else None
        files = loaderfiles.initial_files(self.loader, self.golden, efi=efi, guard=guard, gpt=self.table == "gpt")
        kernel = {name.replace("image/a", "working/b"): data for name, data in files.items() if "image/a" in name}
        files |= kernel | loaderfiles.small_files(Slot.WORKING, "b", self.golden)
        if self.loader == "grub":
            files[ENV] = render_decision(GrubDecision(primary=primary, working_dir="b"))
        else:
            files[sdfiles.LOADER_CONF] = sdfiles.render_loader_conf(primary)
            name = f"{sdfiles.ENTRIES}/{sdfiles.full(3, 0)}"
            files[name] = sdfiles.render_entry(Slot.WORKING, "b", self.golden.cmdline, gpt=self.table == "gpt")
        return files

    table = "gpt"

    def boots(self, primary: Slot, damage: Damage = lambda files: None, *, until: str = r"Command line: .*") -> str:
        """Everything on the console up to a line that matches `until`."""
        files = self.files(primary)
        damage(files)
        self._make_disk(files)
        return self.again(until=until)

    def again(self, *, until: str = r"Command line: .*") -> str:
        """The disk as the boot before left it."""
        variables = self.directory / "vars.fd"
        shutil.copyfile(firmware().vars, variables)
        qemu = subprocess.Popen([
            "qemu-system-x86_64", "-machine", "q35", *acceleration(), "-m", "768", "-display", "none", "-nodefaults",
            *pflash(firmware().code, variables), "-serial", "stdio", "-no-reboot",
            "-drive", f"file={self.directory / 'disk'},format=raw,if=virtio,cache=unsafe"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        serial = Serial(self.directory / "serial.log")
        assert qemu.stdout
        serial.attach(qemu.stdout, "boot")
        try:
            serial.wait(until, timeout=BOOT)
        finally:
            qemu.kill()
            qemu.wait()
            serial.join()
        return serial.text()

    def _make_disk(self, files: Files) -> None:
        disk = self.directory / "disk"
        with disk.open("wb") as file:
            file.truncate(SIZE + 2 * MIB)
        kind = "uefi" if self.table == "gpt" else "ef"
        commands().run(["sfdisk", "--quiet", str(disk)],
                       stdin=f"label: {self.table}\nstart=2048, size={SIZE // 512}, type={kind}\n".encode())
        fat.make(disk, offset=MIB, size=SIZE, files=files, empty=(), seed="x", epoch=0, stage=self.directory / "stage",
                 commands=commands())


@pytest.fixture(params=["systemd-boot", "grub"])
def machine(request: pytest.FixtureRequest, tmp_path: Path, golden: BootAssets, programs: Files) -> Machine:
    return Machine(tmp_path, golden, programs, str(request.param))


def half(name: str) -> Damage:
    def damage(files: Files) -> None:
        files[name] = files[name][:len(files[name]) // 2]
    return damage


def hanging(name: str) -> Damage:
    """As long as before, and its headers are sound: a loader that only looks at those starts it. Its first instruction
    jumps to itself."""
    def damage(files: Files) -> None:
        data = bytearray(files[name])
        header = int.from_bytes(data[0x3c:0x40], "little")
        assert data[header:header + 4] == b"PE\0\0"
        entry = int.from_bytes(data[header + 40:header + 44], "little")  # Linux' sections lie at their addresses
        data[entry:entry + 2] = b"\xeb\xfe"
        files[name] = bytes(data)
    return damage


def missing(name: str) -> Damage:
    def damage(files: Files) -> None:
        del files[name]
    return damage


def slot_of(console: str) -> str:
    lines = re.findall(r"Command line: (.*)", console)
    assert lines, console[-2000:]
    found = re.search(r"k8r\.slot=(\w+)", lines[-1])
    assert found and "boot=k8r" in lines[-1]
    return found[1]


@pytest.mark.parametrize("primary", Slot)
def test_the_primary_boots(machine: Machine, primary: Slot) -> None:
    console = machine.boots(primary)
    assert slot_of(console) == primary
    assert " gpt " in console


@pytest.mark.parametrize("name", ["vmlinuz", "initrd.img"])
def test_a_damaged_image_slot_as_the_primary_leads_to_the_working_slot(machine: Machine, name: str) -> None:
    assert slot_of(machine.boots(Slot.IMAGE, half(f"image/a/{name}"))) == "working"


def used_up(files: Files, *, offered: bool = True) -> None:
    """No try of the working slot is left."""
    if ENV in files:
        files[ENV] = render_decision(GrubDecision(primary=Slot.WORKING, working_dir="b", tries=0,
                                                  image_offered=offered))
        return
    full, used = (f"{sdfiles.ENTRIES}/{name}" for name in (
        sdfiles.full(3, 0), sdfiles.EntryName(slot=Slot.WORKING, left=0, done=3)))
    files[used] = files.pop(full)
    image = f"{sdfiles.ENTRIES}/k8r-image.conf"
    files[image] = files[image] if offered else sdfiles.withdrawn(files[image])


def test_a_half_written_image_slot_is_not_booted_for_want_of_tries(machine: Machine) -> None:
    def damage(files: Files) -> None:
        used_up(files, offered=False)
    assert slot_of(machine.boots(Slot.WORKING, damage)) == "working"


def test_without_tries_the_image_slot_boots(machine: Machine) -> None:
    assert slot_of(machine.boots(Slot.WORKING, used_up)) == "image"


@pytest.mark.fault(16)
def test_without_tries_an_image_slot_that_never_comes_up_gives_the_working_slot_a_turn(machine: Machine) -> None:
    """Nobody says of any of these boots that it was good."""
    found = [machine.boots(Slot.WORKING, used_up), *(machine.again() for _ in range(4))]
    assert [slot_of(console) for console in found] == ["image", "image", "image", "working", "image"]


@pytest.mark.fault(16)
@pytest.mark.parametrize(("how", "name"), [(hanging, "vmlinuz"), (half, "initrd.img")])
def test_a_damaged_image_slot_is_not_booted_for_want_of_tries(machine: Machine, how: Callable[[str], Damage],
                                                              name: str) -> None:
    """The kernel would hang, the initrd end in one panic after the other."""
    def damage(files: Files) -> None:
        used_up(files)
        how(f"image/a/{name}")(files)
    assert slot_of(machine.boots(Slot.WORKING, damage)) == "working"


@pytest.mark.fault(16)
@pytest.mark.parametrize("how", [hanging, missing])
def test_a_damaged_image_kernel_is_not_booted_because_it_was_armed(machine: Machine,
                                                                   how: Callable[[str], Damage]) -> None:
    """Of systemd-boot, where nothing here sets firmware variables: the guard does not even let it begin."""
    def damage(files: Files) -> None:
        if machine.loader == "grub":
            files[ENV] = render_decision(GrubDecision(primary=Slot.WORKING, working_dir="b", once=Slot.IMAGE))
        how("image/a/vmlinuz")(files)
    console = machine.boots(Slot.WORKING, damage)
    assert slot_of(console) == "working" and "k8r: working/b" in console


@pytest.mark.fault(16)
@pytest.mark.parametrize("how", [half, hanging, missing])
def test_a_damaged_working_kernel_leads_to_the_image_slot(machine: Machine, how: Callable[[str], Damage]) -> None:
    assert slot_of(machine.boots(Slot.WORKING, how("working/b/vmlinuz"))) == "image"


def test_where_neither_can_be_booted_the_screen_says_so(machine: Machine) -> None:
    def damage(files: Files) -> None:
        for name in ("image/a/vmlinuz", "working/b/vmlinuz"):
            half(name)(files)
    console = machine.boots(Slot.IMAGE, damage, until="trying again in 60 s")
    assert "neither slot can be booted" in console and "Command line" not in console


@pytest.mark.parametrize("primary", Slot)
def test_a_destroyed_systemd_boot_is_done_without(tmp_path: Path, golden: BootAssets, programs: Files,
                                                  primary: Slot) -> None:
    machine = Machine(tmp_path, golden, programs, "systemd-boot")

    def damage(files: Files) -> None:
        files[SD_BOOT] = b"garbage" * 1000
    console = machine.boots(primary, damage)
    assert slot_of(console) == primary
    assert golden.cmdline in console and "k8r.bootpart=" in console


def test_no_backup_table_is_looked_for_on_a_disk_with_an_mbr(machine: Machine) -> None:
    machine.table = "dos"
    console = machine.boots(Slot.IMAGE)
    assert slot_of(console) == "image" and " gpt " not in console
    with contextlib.suppress(ValueError):
        assert "gpt" not in console.split("Command line:")[1].split()
