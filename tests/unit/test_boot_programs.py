"""The loader's own programs: what is damaged is put back, what is not known to be damaged is left alone."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from k8r_agent.boot import loaderfiles
from k8r_agent.boot.programs import EFI, PROGRAMS, SD_BOOT, SUMS, LoaderPrograms, signed
from k8r_agent.errors import Exit
from k8r_agent.model.boot import LoaderFault
from tests.fakes.assets import in_memory
from tests.fakes.bootfiles import FakeBootFiles
from tests.fakes.prompt import Prompt

ASSETS = in_memory(kernel=b"kernel", initrd=b"initrd", cmdline="quiet", release="1")
OLD, NEW = b"program of release 1", b"program of release 2"


def program(*, certificate: int) -> bytes:
    """The beginning of a PE32+ program with this many bytes of certificates."""
    data = bytearray(1024)
    data[:2] = b"MZ"
    struct.pack_into("<I", data, 0x3C, 0x80)
    data[0x80:0x84] = b"PE\0\0"
    struct.pack_into("<H", data, 0x80 + 24, 0x20B)
    struct.pack_into("<II", data, 0x80 + 24 + 112 + 4 * 8, 900, certificate)
    return bytes(data)


def node(tmp_path: Path, loader: str, *, packaged: bytes | None = NEW) -> LoaderPrograms:
    guard = b"guard" if loader == "systemd-boot" else None
    files = FakeBootFiles(loaderfiles.initial_files(loader, ASSETS, efi=OLD, guard=guard))
    if packaged is not None:
        for name in PROGRAMS[loader].values():
            (tmp_path / f"{name}.efi").write_bytes(packaged)
    return LoaderPrograms(files=files, loader=loader, packaged=tmp_path)


def paths(loader: str) -> list[str]:
    return list(PROGRAMS[loader])


BOTH = [(loader, path) for loader in PROGRAMS for path in PROGRAMS[loader]]


@pytest.mark.parametrize("loader", PROGRAMS)
def test_what_was_installed_is_left_as_it_is(tmp_path: Path, loader: str) -> None:
    """Also where the running release packages another one: a loader that works is not replaced."""
    programs = node(tmp_path, loader)
    before = dict(programs.files.medium)  # type: ignore[attr-defined]
    assert programs.faults() == () and programs.mend() == ()
    assert programs.files.medium == before  # type: ignore[attr-defined]


@pytest.mark.parametrize(("loader", "path"), BOTH)
@pytest.mark.parametrize("damage", [b"", b"garbage", None])
def test_a_destroyed_program_is_put_back(tmp_path: Path, loader: str, path: str, damage: bytes | None) -> None:
    programs = node(tmp_path, loader)
    with programs.files.writable():
        programs.files.remove(path)
        if damage is not None:
            programs.files.put(path, damage)
    assert [(fault.path, fault.mendable) for fault in programs.faults()] == [(path, True)]
    assert programs.mend() == (path,)
    assert programs.files.read(path) == NEW
    assert programs.faults() == () and programs.mend() == ()
    others = [other for other in paths(loader) if other != path]
    assert all(programs.files.read(other) != NEW for other in others)


@pytest.mark.parametrize(("loader", "path"), BOTH)
def test_cut_while_it_is_put_back(tmp_path: Path, loader: str, path: str) -> None:
    """At every crash point, with nothing of the cache on the medium: again, and it is whole."""
    number = 0
    while True:
        programs = node(tmp_path, loader)
        files = programs.files
        assert isinstance(files, FakeBootFiles)
        with files.writable():
            files.put(path, b"garbage")
        hits = 0

        def point(name: str, number: int = number) -> None:
            nonlocal hits
            hits += 1
            if hits > number:
                raise KeyboardInterrupt
        files.point = point
        try:
            programs.mend()
            return
        except KeyboardInterrupt:
            files.point = lambda name: None
            files.power_cut()
        assert files.read(path) in (b"garbage", NEW)
        programs.mend()
        assert files.read(path) == NEW and programs.faults() == ()
        number += 1


def test_a_program_that_its_owner_signed_is_never_replaced(tmp_path: Path) -> None:
    programs = node(tmp_path, "grub")
    with programs.files.writable():
        programs.files.put(EFI, program(certificate=64))
    (fault,) = programs.faults()
    assert not fault.mendable and "signed" in fault.why
    assert programs.mend() == () and programs.files.read(EFI) == program(certificate=64)


@pytest.mark.parametrize(("data", "expected"), [
    (program(certificate=64), True), (program(certificate=0), False), (b"", False), (b"MZ", False),
    (b"MZ" + b"\xff" * 500, False)])
def test_signed(data: bytes, expected: bool) -> None:
    assert signed(data) is expected


def test_without_a_record_only_a_missing_program_is_put_back(tmp_path: Path) -> None:
    """A disk that was flashed before there was one: what lies there may be anything, and boots."""
    programs = node(tmp_path, "systemd-boot")
    with programs.files.writable():
        programs.files.remove(SUMS)
        programs.files.remove(SD_BOOT)
    assert {(fault.path, fault.mendable) for fault in programs.faults()} == {(EFI, False), (SD_BOOT, True)}
    assert programs.mend() == (SD_BOOT,)


def test_without_a_copy_it_is_said_and_nothing_is_done(tmp_path: Path) -> None:
    programs = node(tmp_path, "grub", packaged=None)
    with programs.files.writable():
        programs.files.put(EFI, b"garbage")
    (fault,) = programs.faults()
    assert not fault.mendable and "no copy" in fault.why
    assert programs.mend() == ()


def test_at_the_prompt(tmp_path: Path) -> None:
    prompt = Prompt(tmp_path)
    assert prompt.run("boot", "check") == Exit.OK
    prompt.world.boot.offer_image(False)
    assert prompt.run("boot", "check") == Exit.FAILED and "not completed" in prompt.out
    prompt.world.boot.offer_image(True)
    prompt.world.boot.faults = (  # type: ignore[attr-defined]
        LoaderFault(path=EFI, why="damaged", mendable=True), LoaderFault(path=SD_BOOT, why="signed", mendable=False))
    assert prompt.run("boot", "check") == Exit.FAILED
    assert "boot confirm" in prompt.out and SD_BOOT in prompt.out
    assert prompt.run("boot", "confirm") == Exit.OK
    assert f"{EFI} on the boot partition was damaged and is put back" in prompt.err
    found = prompt.json("boot", "check")
    assert not found["ok"] and len(found["problems"]) == 1
