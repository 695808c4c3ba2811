"""The judge of rebuilt disks: FAT file systems that mkfs.vfat and mtools made, whole and damaged."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from k8r_agent.boot import grubfiles, loaderfiles, sdfiles
from k8r_agent.model.slots import Slot
from tests.fakes.assets import files_of
from tests.fakes.golden import assets_of
from tests.lab.bootjudge import ARMINGS, Boot, Judge
from tests.lab.fatreader import Fat, NoFat

MIB = 1 << 20
KNOWN = {content.sha256: f"{name} {n}" for n in (1, 2) for name, content in (
    ("vmlinuz", assets_of(n).kernel), ("initrd.img", assets_of(n).initrd))}
LOADERS = ("systemd-boot", "grub")


def fat(path: Path, files: dict[str, bytes], *, size: int = 40 * MIB, bits: int = 32) -> Path:
    subprocess.run(["/usr/sbin/mkfs.vfat", "-F", str(bits), "-C", str(path), str(size // 1024)], check=True,
                   capture_output=True)
    made: set[str] = set()
    for name, data in files.items():
        parts = name.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            if (directory := "/".join(parts[:depth])) not in made:
                made.add(directory)
                subprocess.run(["mmd", "-i", str(path), f"::{directory}"], check=True, capture_output=True)
        put(path, name, data)
    return path


def put(path: Path, name: str, data: bytes) -> None:
    subprocess.run(["mcopy", "-D", "o", "-i", str(path), "-", f"::{name}"], check=True, input=data,
                   capture_output=True)


def read(path: Path) -> Fat:
    file = os.open(path, os.O_RDONLY)
    try:
        return Fat(file)
    finally:
        os.close(file)


def lost(path: Path, loader: str) -> list[Boot]:
    """Each once."""
    file = os.open(path, os.O_RDONLY)
    try:
        judge = Judge(loader, KNOWN)
        judge.boots(file)
        return list(dict.fromkeys(judge.lost()))
    finally:
        os.close(file)


def decide(path: Path, loader: str, *, image_offered: bool) -> None:
    """The working slot is the primary."""
    if loader == "grub":
        put(path, "grub/k8r.env", grubfiles.render_decision(grubfiles.GrubDecision(image_offered=image_offered)))
        return
    put(path, "loader/loader.conf", sdfiles.render_loader_conf(Slot.WORKING))
    entry = sdfiles.render_entry(Slot.IMAGE, "a", "quiet")
    put(path, "loader/entries/k8r-image.conf", entry if image_offered else sdfiles.withdrawn(entry))


def boots(path: Path, loader: str, arming: int = 0) -> Boot:
    file = os.open(path, os.O_RDONLY)
    try:
        return Judge(loader, KNOWN).boots(file)[arming]
    finally:
        os.close(file)


@pytest.fixture(params=LOADERS)
def loader(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def flashed(tmp_path: Path, loader: str) -> Path:
    files = loaderfiles.initial_files(loader, assets_of(1), efi=b"EFI program")
    files.update({f"working/a/{name}": data for name, data in files_of(assets_of(2)).items()})
    files.update(loaderfiles.small_files(Slot.WORKING, "a", assets_of(2)))
    if loader == "systemd-boot":
        files["loader/entries/k8r-working+3-0.conf"] = sdfiles.render_entry(Slot.WORKING, "a", "quiet")
    return fat(tmp_path / "fat.img", files)


@pytest.mark.parametrize("bits", [16, 32])
def test_reads_what_mtools_wrote(tmp_path: Path, bits: int) -> None:
    files = {"short.txt": b"s", "a/k8r-working+3-0.conf": b"x" * 512, "a/b/A Long Name With BLANKS.bin": b"y" * 70000,
             "a/b/empty": b""}
    path = fat(tmp_path / "fat.img", files, bits=bits)
    file = os.open(path, os.O_RDONLY)
    seen = Fat(file)
    assert {name: seen.read(name) for name in seen.files} == {name.lower(): data for name, data in files.items()}
    assert seen.read("absent") is None and seen.directories == {"a", "a/b"}
    os.close(file)


def test_a_chain_that_ends_too_early_is_no_file(tmp_path: Path) -> None:
    path = fat(tmp_path / "fat.img", {"big": b"z" * 100_000})
    start = read(path).files["big"].cluster
    with path.open("r+b") as file:
        file.seek(32 * 512 + (start + 3) * 4)  # the first FAT follows 32 reserved sectors
        file.write((0).to_bytes(4, "little"))
        file.flush()
        assert Fat(file.fileno()).read("big") is None
        file.seek(0)
        file.write(bytes(512))
        file.flush()
        with pytest.raises(NoFat):
            Fat(file.fileno())


def test_flashed_disk_boots_its_image(flashed: Path, loader: str) -> None:
    assert boots(flashed, loader) == Boot("image", "image/a", "1")


def test_armed_slot_boots(flashed: Path, loader: str) -> None:
    if loader == "systemd-boot":
        assert boots(flashed, loader, ARMINGS.index("k8r-working*")) == Boot("working", "working/a", "2")


@pytest.mark.parametrize("name", ["vmlinuz", "initrd.img"])
def test_damage_is_seen(flashed: Path, loader: str, name: str) -> None:
    put(flashed, f"image/a/{name}", b"garbage")
    assert boots(flashed, loader) == Boot("working", "working/a", "2"), "hashes are checked, the other slot is taken"
    put(flashed, "image/a/sha256sums", b"")
    assert "damaged" in boots(flashed, loader).why


def test_kernel_and_initrd_of_different_releases_are_seen(flashed: Path, loader: str) -> None:
    put(flashed, "image/a/initrd.img", files_of(assets_of(2))["initrd.img"])
    put(flashed, "image/a/sha256sums", b"")
    assert boots(flashed, loader).why


def test_no_way_to_boot_is_seen(tmp_path: Path, loader: str) -> None:
    assert boots(fat(tmp_path / "fat.img", {"k8r.toml": b""}), loader).why
    (tmp_path / "none").write_bytes(bytes(4096))
    assert boots(tmp_path / "none", loader).why


IMAGE_BOOTS, WORKING_BOOTS = Boot("image", "image/a", "1"), Boot("working", "working/a", "2")


def test_tries_that_are_used_up_lead_to_the_image_slot(flashed: Path, loader: str) -> None:
    assert lost(flashed, loader) == [IMAGE_BOOTS], "it is the primary"
    decide(flashed, loader, image_offered=True)
    assert boots(flashed, loader) == WORKING_BOOTS and lost(flashed, loader) == [WORKING_BOOTS, IMAGE_BOOTS]


def test_an_image_slot_that_is_not_offered_is_booted_by_nothing(flashed: Path, loader: str) -> None:
    decide(flashed, loader, image_offered=False)
    armings = ARMINGS if loader == "systemd-boot" else ARMINGS[:1]
    assert {boots(flashed, loader, n) for n in range(len(armings))} == {WORKING_BOOTS}
    assert lost(flashed, loader) == [WORKING_BOOTS]
    put(flashed, "working/a/vmlinuz", b"garbage")
    assert lost(flashed, loader)[-1].why, "nothing is left to boot"


def test_a_kernel_that_two_releases_share_belongs_to_both(flashed: Path, loader: str) -> None:
    put(flashed, "image/a/initrd.img", files_of(assets_of(2))["initrd.img"])
    put(flashed, "image/a/sha256sums", b"")
    shared = {digest: "vmlinuz 1/2" if name == "vmlinuz 1" else name for digest, name in KNOWN.items()}
    file = os.open(flashed, os.O_RDONLY)
    assert Judge(loader, shared).boots(file)[0] == Boot("image", "image/a", "2")
    os.close(file)
