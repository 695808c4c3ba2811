"""Loader files: what the agent writes is what it reads, and what a loader was seen to accept."""

from __future__ import annotations

import io
import re
import tarfile
from pathlib import Path

import pytest

from k8r_agent.boot import assetfiles, grubfiles, grubimage, loaderfiles, sdfiles
from k8r_agent.boot.grubfiles import GrubDecision
from k8r_agent.boot.sdfiles import EntryName
from k8r_agent.errors import BootError
from k8r_agent.model.boot import INITRD, KERNEL, BootAssets, Content
from k8r_agent.model.slots import Slot
from tests.fakes.assets import files_of, in_memory, kernel_of

ASSETS = in_memory(kernel=b"kernel", initrd=b"initrd", cmdline="console=ttyS0 quiet", release="7")


@pytest.mark.fault(5)
@pytest.mark.parametrize("slot", Slot)
def test_the_decision_of_systemd_boot_is_one_sector(slot: Slot) -> None:
    data = sdfiles.render_loader_conf(slot)
    assert len(data) == 512 and data.endswith(b"\n")
    assert sdfiles.parse_loader_conf(data) is slot
    assert (grubfiles.parse_block(data) or {})["primary"] == slot, "the guard reads it, too"
    assert all(line.split()[0] in ("default", "timeout", "editor", "console-mode")
               for line in data.decode().splitlines() if " " in line and not line.startswith("#"))


@pytest.mark.parametrize("data", [None, b"", b"timeout 3\n", b"\xff\xfe" * 256])
def test_without_a_decision_systemd_boot_takes_working(data: bytes | None) -> None:
    assert sdfiles.parse_loader_conf(data) is Slot.WORKING


@pytest.mark.parametrize("slot", Slot)
@pytest.mark.parametrize("letter", ["a", "b"])
def test_entries(slot: Slot, letter: str) -> None:
    data = sdfiles.render_entry(slot, letter, "console=ttyS0   quiet")
    assert len(data) == 512
    assert sdfiles.parse_entry(data) == letter
    assert f"options boot=k8r k8r.slot={slot} gpt panic=10 fsck.mode=skip systemd.gpt_auto=0 console=ttyS0 quiet\n" \
        in data.decode()
    assert (grubfiles.parse_block(data) or {})["dir"] == letter, "the guard reads it, too"


def test_no_backup_table_is_looked_for_on_a_disk_with_an_mbr() -> None:
    assert "k8r.slot=image panic=10" in sdfiles.render_entry(Slot.IMAGE, "a", "quiet", gpt=False).decode()
    files = loaderfiles.initial_files("systemd-boot", ASSETS, efi=b"EFI", gpt=False)
    assert " gpt " not in files["loader/entries/k8r-image.conf"].decode()


def test_arguments_that_do_not_fit_one_sector() -> None:
    sdfiles.render_entry(Slot.WORKING, "a", "x" * 300)
    with pytest.raises(BootError, match="one sector"):
        sdfiles.render_entry(Slot.WORKING, "a", "x" * 400)


@pytest.mark.parametrize(("name", "parsed"), [
    ("k8r-image.conf", EntryName(slot=Slot.IMAGE)),
    ("k8r-working+3-0.conf", EntryName(slot=Slot.WORKING, left=3, done=0)),
    ("K8R-WORKING+0-3.CONF", EntryName(slot=Slot.WORKING, left=0, done=3)),
    ("k8r-working+2.conf", EntryName(slot=Slot.WORKING, left=2)),
    ("k8r-working.conf", EntryName(slot=Slot.WORKING)),
    ("k8r.tmp", None), ("debian.conf", None), ("k8r-working+3-0.conf.old", None),
])
def test_entry_names(name: str, parsed: EntryName | None) -> None:
    assert sdfiles.parse_name(name) == parsed


@pytest.mark.parametrize("tries", range(1, sdfiles.MAX_TRIES + 1))
def test_generations_never_meet(tries: int) -> None:
    """The loader renames +L-D to +(L-1)-(D+1); no name of one generation is one of the other, all as long."""
    names = [{EntryName(slot=Slot.WORKING, left=full.left - used, done=full.done + used)
              for used in range(tries + 1)}
             for full in (sdfiles.full(tries, 0), sdfiles.full(tries, 1)) if full.left is not None]
    assert not names[0] & names[1]
    assert {len(str(name)) for name in names[0] | names[1]} == {len("k8r-working+3-0.conf")}
    assert all(sdfiles.generation(name, tries) == number for number in (0, 1) for name in names[number])


@pytest.mark.fault(5)
@pytest.mark.parametrize("decision", [
    GrubDecision(), GrubDecision(primary=Slot.IMAGE, once=Slot.WORKING, tries=0, image_dir="b", working_dir="b"),
    GrubDecision(tries=0, image_tries=0),
])
def test_the_decision_of_grub_is_one_sector(decision: GrubDecision) -> None:
    data = grubfiles.render_decision(decision)
    assert len(data) == 512 and data.startswith(b"# GRUB Environment Block\n")
    assert grubfiles.parse_decision(data) == decision


@pytest.mark.parametrize("data", [None, b"", b"#" * 512, b"# GRUB Environment Block\nprimary=nonsense\ntries=x\n",
                                  b"# GRUB Environment Block\nimage_tries=4\n"])
def test_a_block_that_says_nothing_means_what_the_script_defaults_to(data: bytes | None) -> None:
    assert grubfiles.parse_decision(data) == GrubDecision()


def test_what_grub_saved_is_read() -> None:
    saved = b"# GRUB Environment Block\nprimary=image\nonce=\ntries=1\nimage_dir=b\nworking_dir=a\n".ljust(512, b"#")
    assert grubfiles.parse_decision(saved) == GrubDecision(primary=Slot.IMAGE, tries=1, image_dir="b")


def test_grub_arguments_of_any_length() -> None:
    for length in (0, 20, 500, 2000):
        block = grubfiles.render_arguments("a" * length)
        assert len(block) % 512 == 0
        assert grubfiles.parse_block(block) == {"cmdline": "a" * length}
    assert grubfiles.parse_block(grubfiles.render_arguments(r"a\b")) == {"cmdline": r"a\b"}


def parsed(files: dict[str, bytes]) -> BootAssets | None:
    kernel, initrd = (Content.of([files[name]]) if name in files else None for name in (KERNEL, INITRD))
    return assetfiles.parse(files, kernel, initrd, files=ASSETS.files)


def test_assets_that_rot_are_noticed() -> None:
    files = {**files_of(ASSETS), **assetfiles.small_files(ASSETS)}
    without_sums = {name: data for name, data in files.items() if name != assetfiles.SUMS}
    assert parsed(files) == parsed(without_sums) == ASSETS
    for name in assetfiles.NAMES:
        assert parsed({**files, name: b"rotten"}) is None
    for name in (KERNEL, INITRD):
        assert parsed({key: data for key, data in files.items() if key != name}) is None
        assert parsed({**without_sums, name: b""}) is None


@pytest.mark.fault(35)
@pytest.mark.parametrize("loader", loaderfiles.LOADERS)
def test_a_fresh_disk(loader: str) -> None:
    files = loaderfiles.initial_files(loader, ASSETS, efi=b"EFI")
    assert files["EFI/BOOT/BOOTX64.EFI"] == b"EFI"
    assert files["image/a/vmlinuz"] == kernel_of(ASSETS)
    assert not any(path.startswith("working/") for path in files)
    small = [path for path in files if path.startswith(("loader/", "grub/"))]
    assert small and all(len(files[path]) == 512 for path in small)


def test_the_guard_stands_before_systemd_boot() -> None:
    files = loaderfiles.initial_files("systemd-boot", ASSETS, efi=b"sd-boot", guard=b"guard")
    assert files["EFI/BOOT/BOOTX64.EFI"] == b"guard"
    assert files["EFI/systemd/systemd-bootx64.efi"] == b"sd-boot"
    with pytest.raises(BootError):
        loaderfiles.initial_files("lilo", ASSETS, efi=b"")


def test_grub_programs() -> None:
    argv = grubimage.LOADER.argv(work=Path("/w"), output=Path("/o/BOOTX64.EFI"))
    assert argv[0] == "grub-mkimage" and "--memdisk" in argv and "hashsum" in argv
    for program, script in ((grubimage.LOADER, grubimage.SCRIPT), (grubimage.GUARD, grubimage.GUARD_SCRIPT)):
        with tarfile.open(fileobj=io.BytesIO(program.files["memdisk.tar"])) as tar:
            member = tar.extractfile("grub.cfg")
            assert member is not None and member.read().decode() == script


@pytest.mark.parametrize("script", [grubimage.SCRIPT, grubimage.GUARD_SCRIPT], ids=["loader", "guard"])
def test_the_scripts_have_no_variable_that_nobody_sets(script: str) -> None:
    used = set(re.findall(r"\$\{?([a-z_]+)", script))
    said = set(re.findall(r"(?:^|\s|=)set (?:--set=)?(\w+)=|--set(?:=1:|=)(\w+)|for (\w+) in", script))
    known = {name for names in said for name in names} | {"cmdpath"}
    assert used <= known, used - known


@pytest.mark.parametrize("program", [grubimage.LOADER, grubimage.GUARD], ids=["loader", "guard"])
def test_the_programs_are_made_of_all_that_their_scripts_call(program: grubimage.Program) -> None:
    script = grubimage.GUARD_SCRIPT if "chain" in program.modules else grubimage.SCRIPT
    modules = {"load_env": "loadenv", "save_env": "loadenv", "regexp": "regexp", "probe": "probe", "[": "test",
               "hashsum": "hashsum", "linux": "linux", "initrd": "linux", "boot": "boot", "chainloader": "chain"}
    called = {word for line in script.splitlines() for word in re.findall(r"(?:^|if |; |then )\s*([a-z_\[]+)", line)}
    assert {module for word, module in modules.items() if word in called} <= set(program.modules)
