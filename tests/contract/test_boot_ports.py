"""The BootFiles and EfiVars ports: the fakes and the real sides keep the same promises.

Here the real sides work on a plain directory. A virtual node runs this file once more against its own FAT and
firmware, named in K8R_TEST_BOOT_FILES and K8R_TEST_EFIVARS.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from k8r_agent.effects import bootfiles
from k8r_agent.effects.bootfiles import MountedBootFiles
from k8r_agent.effects.efivars import VENDOR, LocalEfiVars
from k8r_agent.errors import BootError, FetchError, ReadBackMismatch
from k8r_agent.model.boot import Content
from k8r_agent.ports.bootfiles import BootFiles, EfiVars
from tests.fakes.bootfiles import FakeBootFiles
from tests.fakes.efivars import FakeEfiVars

BASE = "k8r-contract"
REAL_FILES, REAL_VARS = os.environ.get("K8R_TEST_BOOT_FILES"), os.environ.get("K8R_TEST_EFIVARS")
ONE, TWO = b"one".ljust(512, b" "), b"two".ljust(512, b" ")


@pytest.fixture(params=["fake", "real"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BootFiles]:
    if request.param == "fake":
        yield FakeBootFiles()
        return
    real = MountedBootFiles(Path(REAL_FILES)) if REAL_FILES else MountedBootFiles(tmp_path, lock=tmp_path / "lock",
                                                                                 remount=False)
    yield real
    with real.writable():
        for name in real.names(BASE):
            real.remove(f"{BASE}/{name}")
        real.remove(BASE)


def test_what_is_not_there(files: BootFiles) -> None:
    assert files.read(f"{BASE}/a/none") is None
    assert files.names(f"{BASE}/none") == ()
    assert files.free() > 0
    with files.writable():
        files.remove(f"{BASE}/none")


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 4096, 3_000_001])
def test_put(files: BootFiles, size: int) -> None:
    data = os.urandom(size)
    with files.writable():
        files.put(f"{BASE}/a/file", data)
        assert files.read(f"{BASE}/a/file") == data
        files.put(f"{BASE}/a/file", data[::-1] + b"longer")
    assert files.read(f"{BASE}/a/file") == data[::-1] + b"longer"
    assert files.names(f"{BASE}/a") == ("file",)
    assert files.names(BASE) == ("a",)


class StaleMedium(MountedBootFiles):
    """Stands in for a medium that says yes and keeps the old content: every look at `path` from the medium gets it."""

    path = f"{BASE}/decision"

    def content(self, path: str) -> Content | None:
        return Content.of([ONE]) if path == self.path else super().content(path)


@pytest.mark.fault(6)
def test_what_did_not_reach_the_medium_is_an_error(tmp_path: Path) -> None:
    real = MountedBootFiles(tmp_path, lock=tmp_path / "lock", remount=False)
    with real.writable():
        real.put(f"{BASE}/decision", ONE)
    stale = StaleMedium(tmp_path, lock=tmp_path / "lock", remount=False)
    with stale.writable(), pytest.raises(ReadBackMismatch, match="does not hold what was written") as failure:
        stale.put(f"{BASE}/decision", TWO)
    assert "replace it before the next reboot" in failure.value.hint
    with stale.writable(), pytest.raises(ReadBackMismatch):
        stale.write_sector(f"{BASE}/decision", TWO)


@pytest.mark.parametrize("size", [0, 1, 4096, 3_000_001])
def test_a_large_file_in_pieces(files: BootFiles, size: int) -> None:
    data = os.urandom(size)
    pieces = [data[at:at + 300_000] for at in range(0, size, 300_000)]
    with files.writable():
        assert files.put_pieces(f"{BASE}/a/file", iter(pieces)) == Content.of([data])
    assert files.content(f"{BASE}/a/file") == Content.of([data])
    assert b"".join(files.pieces(f"{BASE}/a/file")) == data
    assert files.content(f"{BASE}/a/none") is None
    with pytest.raises(BootError, match="a/none"):
        list(files.pieces(f"{BASE}/a/none"))


def test_pieces_that_end_early_leave_what_was_there(files: BootFiles) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise FetchError("the connection is gone")

    with files.writable():
        files.put(f"{BASE}/a/file", b"whole")
        with pytest.raises(FetchError, match="connection"):
            files.put_pieces(f"{BASE}/a/file", broken())
        assert files.read(f"{BASE}/a/file") == b"whole"
        files.put(f"{BASE}/a/file", b"new")
    assert files.read(f"{BASE}/a/file") == b"new"
    assert files.names(f"{BASE}/a") == ("file",)


def test_one_sector_in_place(files: BootFiles) -> None:
    with files.writable(), files.writable():
        files.put(f"{BASE}/a/sector", ONE)
        files.write_sector(f"{BASE}/a/sector", TWO)
        assert files.read(f"{BASE}/a/sector") == TWO
    with files.writable():
        files.put(f"{BASE}/a/other", ONE + b"x")
        with pytest.raises(BootError):
            files.write_sector(f"{BASE}/a/other", TWO)
        with pytest.raises(BootError):
            files.write_sector(f"{BASE}/a/none", TWO)


def test_remove_and_rename(files: BootFiles) -> None:
    with files.writable():
        for name in ("x", "y", "k8r-working+3-0.conf"):
            files.put(f"{BASE}/a/{name}", name.encode())
        files.rename(f"{BASE}/a/x", f"{BASE}/a/z")
        assert files.names(f"{BASE}/a") == ("k8r-working+3-0.conf", "y", "z")
        assert files.read(f"{BASE}/a/z") == b"x"
        files.remove(f"{BASE}/a/y")
        assert files.read(f"{BASE}/a/y") is None
        files.remove(f"{BASE}/a")
        assert files.names(f"{BASE}/a") == ()


def test_nothing_is_written_unless_writable(files: BootFiles) -> None:
    with pytest.raises(AssertionError):
        files.put(f"{BASE}/a/file", b"data")


def test_not_a_mount(tmp_path: Path) -> None:
    real = MountedBootFiles(tmp_path, lock=tmp_path / "lock")
    with pytest.raises(BootError, match="not mounted"), real.writable():
        pass
    with pytest.raises(BootError, match="not mounted"):
        real.read("loader/loader.conf")
    with pytest.raises(BootError, match="not mounted"):
        real.names("loader/entries")


def test_paths_stay_inside(tmp_path: Path) -> None:
    real = MountedBootFiles(tmp_path, lock=tmp_path / "lock", remount=False)
    for path in ("/etc/passwd", "../x", "a/../../x", ""):
        with pytest.raises(AssertionError):
            real.read(path)


@pytest.fixture(params=["fake", "real"])
def variables(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EfiVars]:
    real = LocalEfiVars(Path(REAL_VARS) if REAL_VARS else tmp_path)
    (tmp_path / "Other-8be4df61-93ca-11d2-aa0d-00e098032b8c").write_bytes(b"\7\0\0\0\0")
    found: EfiVars = real if request.param == "real" else FakeEfiVars()
    yield found
    found.delete("K8rContract")


def test_variables(variables: EfiVars) -> None:
    assert variables.available()
    assert variables.read("K8rContract") is None
    variables.delete("K8rContract")
    variables.write("K8rContract", "k8r-working*")
    assert variables.read("K8rContract") == "k8r-working*"
    variables.write("K8rContract", "k8r-image*+longer")
    assert variables.read("K8rContract") == "k8r-image*+longer"
    variables.delete("K8rContract")
    assert variables.read("K8rContract") is None


@pytest.mark.fault(35)
def test_a_firmware_without_room_is_told_apart(tmp_path: Path) -> None:
    full = LocalEfiVars(tmp_path)
    (tmp_path / f"LoaderEntryOneShot-{VENDOR}").symlink_to("/dev/full")
    with pytest.raises(BootError, match="No space left") as told:
        full.write("LoaderEntryOneShot", "k8r-image*")
    assert told.value.hint.startswith("reboot the node")


def test_no_firmware_variables(tmp_path: Path) -> None:
    none = LocalEfiVars(tmp_path / "none")
    assert not none.available() and none.read("LoaderInfo") is None
    with pytest.raises(BootError):
        none.write("LoaderEntryOneShot", "x")


def test_directories_stay_and_get_their_name_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither can be done in one step on a FAT. What a cut left of an earlier one is not opened."""
    real, named = MountedBootFiles(tmp_path, lock=tmp_path / "lock", remount=False), list[tuple[str, str]]()
    (tmp_path / "k8r-0.new").mkdir()
    rename = Path.rename

    def noted(self: Path, to: Path) -> Path:
        assert self.name == "k8r.tmp" or self.parent == tmp_path, "fsck.vfat would come to it before a slot's kernel"
        named.append((self.name, to.name))
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", noted)
    with real.writable():
        real.put("working/b/file", b"data")
        real.remove("working/b")
    assert named[:2] == [("k8r-1.new", "working"), ("k8r-1.new", "b")]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["k8r-0.new", "working"]
    assert (tmp_path / "working/b").is_dir() and not any((tmp_path / "working/b").iterdir())


def test_a_medium_that_fails_at_the_end_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = MountedBootFiles(tmp_path, lock=tmp_path / "lock", remount=False)

    def fails(directory: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(BootError, match="on the boot partition") as told, real.writable():
        monkeypatch.setattr(bootfiles, "flush", fails)
    assert "reboot" in told.value.hint
    monkeypatch.undo()
    with real.writable():  # and the lock is free
        real.put("file", b"data")


@pytest.mark.parametrize("size", [0, 1, 4096, 100_000])
def test_sizes(files: BootFiles, size: int) -> None:
    with files.writable():
        files.put(f"{BASE}/a/file", bytes(size))
        files.put(f"{BASE}/a/other", b"x")
    assert sorted(files.sizes(f"{BASE}/a")) == sorted([size, 1])
    assert files.sizes(f"{BASE}/a/file") == (size,)
    assert files.sizes(f"{BASE}/none") == ()
    assert BASE in files.names("")
