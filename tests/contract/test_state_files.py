"""The contract of StateFiles, for the fake and for a real directory."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from k8r_agent.effects.statefiles import StateDirectory
from k8r_agent.errors import StateError
from k8r_agent.ports.statefiles import StateFiles
from tests.fakes.statefiles import FakeStateFiles


@pytest.fixture(params=["fake", "directory", "volatile"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> StateFiles:
    if request.param == "fake":
        return FakeStateFiles()
    if request.param == "directory":
        (tmp_path / "state").mkdir(mode=0o700)
        return StateDirectory(tmp_path / "state", mounted=lambda path: True)
    return StateDirectory(tmp_path / "none", volatile=tmp_path / "run" / "volatile")


def test_what_was_written_is_read(files: StateFiles) -> None:
    assert files.read("transaction.json") is None
    files.write("transaction.json", b"one")
    files.write("transaction.json", b"two")
    assert files.read("transaction.json") == b"two"
    files.write("empty", b"")
    assert files.read("empty") == b""


def test_append_creates_and_extends(files: StateFiles) -> None:
    files.append("events.jsonl", b"1\n")
    files.append("events.jsonl", b"2\n")
    assert files.read("events.jsonl") == b"1\n2\n"


def test_names_are_sorted_and_of_one_level(files: StateFiles) -> None:
    assert files.names("queue") == ()
    for name in ("queue/b.json", "queue/a.json", "manifests/2/manifest.toml", "slots.json"):
        files.write(name, b"x")
    assert files.names("queue") == ("a.json", "b.json")
    assert files.names("manifests") == ("2",)
    assert files.names("") == ("manifests", "queue", "slots.json")


def test_remove_is_idempotent(files: StateFiles) -> None:
    files.write("queue/a.json", b"x")
    files.remove("queue/a.json")
    files.remove("queue/a.json")
    files.remove("nowhere/at-all")
    assert files.read("queue/a.json") is None and files.names("queue") == ()


@pytest.mark.parametrize("name", ["../etc/passwd", "/etc/passwd", "a//b", "a/./b", "a\0b", "a.tmp"])
def test_names_cannot_leave_the_directory(files: StateFiles, name: str) -> None:
    with pytest.raises(ValueError):
        files.write(name, b"x")


# the fake's own promises: what a power cut leaves

class Die(BaseException):
    pass


def dies_at(where: str, files: FakeStateFiles) -> None:
    def point(name: str) -> None:
        if name == where:
            raise Die
    files.point = point


@pytest.mark.parametrize("point, keep, left", [
    ("before", 0, b"old"), ("before", 1, b"old"), ("tmp", 1, b"old"),
    ("replaced", 0, b"old"), ("replaced", 1, b"new"), ("after", 0, b"new"),
])
def test_a_write_is_old_or_new(point: str, keep: float, left: bytes) -> None:
    files = FakeStateFiles()
    files.write("f", b"old")
    dies_at(f"files:f:{point}", files)
    with pytest.raises(Die):
        files.write("f", b"new")
    files.power_cut(keep)
    assert files.read("f") == left


@pytest.mark.parametrize("keep, left", [(0, b"1\n"), (0.5, b"1\n2"), (1, b"1\n2\n")])
def test_an_append_may_be_torn(keep: float, left: bytes) -> None:
    files = FakeStateFiles()
    files.append("f", b"1\n")
    dies_at("files:f:written", files)
    with pytest.raises(Die):
        files.append("f", b"2\n")
    files.power_cut(keep)
    assert files.read("f") == left


def test_ram_is_lost_and_a_killed_process_loses_nothing() -> None:
    files = FakeStateFiles(on_partition=False)
    dies_at("files:f:replaced", files)
    with pytest.raises(Die):
        files.write("f", b"x")
    assert files.read("f") == b"x"
    files.power_cut(1)
    assert files.read("f") is None and not files.persistent()


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_the_fake_fails_as_the_real_one(fault: int) -> None:
    files = FakeStateFiles()
    files.fault = fault
    full, read_only = (f"the state partition is {what}" for what in ("full", "read-only"))
    assert files.trouble()[0] == {errno.ENOSPC: full, errno.EROFS: read_only}.get(fault, "")
    for call in (files.write, files.append):
        with pytest.raises(StateError, match=os.strerror(fault)):
            call("f", b"x")


# the real one

def test_modes(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        StateDirectory(tmp_path, mounted=lambda path: True).write("a/b", b"x")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "a/b").stat().st_mode) == 0o600


def test_links_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(outside)
    (root / "dir").symlink_to(tmp_path)
    (root / ".new.tmp").symlink_to(outside)
    files = StateDirectory(root, mounted=lambda path: True)
    with pytest.raises(StateError):
        files.read("link")
    with pytest.raises(StateError):
        files.append("link", b"x")
    with pytest.raises(StateError):
        files.write("dir/outside", b"x")
    with pytest.raises(StateError):
        files.write("new", b"x")
    files.write("link", b"mine")  # replaces the link itself
    assert outside.read_bytes() == b"precious" and (root / "link").read_bytes() == b"mine"


def test_the_root_follows_the_mount(tmp_path: Path) -> None:
    mounted = False
    (tmp_path / "root").mkdir()
    files = StateDirectory(tmp_path / "root", volatile=tmp_path / "ram", mounted=lambda path: mounted)
    files.write("f", b"ram")
    assert not files.persistent()
    mounted = True
    assert files.persistent() and files.read("f") is None
    files.write("f", b"disk")
    assert (tmp_path / "root/f").read_bytes() == b"disk" and (tmp_path / "ram/f").read_bytes() == b"ram"


@pytest.fixture
def small_mount(tmp_path: Path) -> Iterator[Path]:
    """A full-able ext4 of 2 MiB on a loop device, mounted."""
    image, at = tmp_path / "image", tmp_path / "state"
    image.write_bytes(b"\0" * (2 << 20))
    at.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-b", "1024", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop,errors=remount-ro", str(image), str(at)], check=True)
    yield at
    subprocess.run(["umount", str(at)], check=True)


@pytest.mark.parametrize("instant", ["os.fsync", "os.replace"])
def test_a_write_that_is_killed_leaves_nothing_that_the_path_unit_sees(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instant: str) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt
    files = StateDirectory(tmp_path, mounted=lambda path: True)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(instant, killed)
        files.write("queue/request.json", b"x")
    assert [p for p in os.listdir(tmp_path / "queue") if not p.startswith(".")] == []
    assert files.names("queue") == ()
    files.write("queue/request.json", b"x")
    assert os.listdir(tmp_path / "queue") == ["request.json"]


@pytest.mark.root
@pytest.mark.loop
@pytest.mark.fault(7)
def test_full_and_read_only(small_mount: Path) -> None:
    files = StateDirectory(small_mount)
    assert files.persistent()
    files.write("transaction.json", b"old")
    files.append("events.jsonl", b"1\n")
    big = os.urandom(4 << 20)
    with pytest.raises(StateError, match="No space left") as failure:
        files.write("transaction.json", big)
    assert "free space" in failure.value.hint
    with pytest.raises(StateError, match="No space left"):
        files.append("events.jsonl", big)
    assert files.read("transaction.json") == b"old"
    assert files.read("events.jsonl") == b"1\n"
    assert not (small_mount / ".transaction.json.tmp").exists()
    files.write("transaction.json", b"new")  # the failed one left no space behind
    assert files.trouble() == ("", "")
    room = os.statvfs(small_mount)
    (small_mount / "filler").write_bytes(bytes(room.f_bfree * room.f_frsize - (128 << 10)))
    assert files.trouble()[0] == "the state partition is full" and "free space" in files.trouble()[1]
    (small_mount / "filler").unlink()
    assert files.trouble() == ("", "")
    subprocess.run(["mount", "-o", "remount,ro", str(small_mount)], check=True)
    assert files.trouble()[0] == "the state partition is read-only" and "reboot" in files.trouble()[1]
    with pytest.raises(StateError, match="Read-only") as failure:
        files.write("transaction.json", b"x")
    assert "journalctl -k" in failure.value.hint
    assert files.read("transaction.json") == b"new"
