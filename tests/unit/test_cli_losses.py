from __future__ import annotations

from pathlib import Path

from k8r_agent.cli import losses
from k8r_agent.cli.reinstall import announcement
from k8r_agent.model.slots import SlotStatus


def put(root: Path, name: str, size: int) -> None:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"x" * size)


def test_what_is_there_is_measured_and_the_rest_left_out(tmp_path: Path) -> None:
    put(tmp_path, "home/ann/notes", 100_000)
    put(tmp_path, "home/bob/deep/er/notes", 50_000)
    put(tmp_path, "var/lib/containerd/blob", 300_000)
    (tmp_path / "var/log").mkdir(parents=True)
    (tmp_path / "srv").symlink_to("/usr")
    found = {loss.what: loss for loss in losses.measure(tmp_path)}
    assert set(found) == {"home directories", "container images"}
    assert found["home directories"].paths == ("/home/ann", "/home/bob")
    assert 150_000 <= found["home directories"].size <= 180_000
    assert found["container images"].complete


def test_measuring_ends_when_the_time_is_up(tmp_path: Path) -> None:
    for number in range(20):
        put(tmp_path, f"root/{number}/file", 10_000)
    ticks = iter(range(1000))
    (loss,) = losses.measure(tmp_path, budget=25.0, clock=lambda: float(next(ticks)))
    assert not loss.complete
    assert "at least" in "\n".join(announcement((loss,), SlotStatus(), SlotStatus()))


def test_nothing_to_measure(tmp_path: Path) -> None:
    assert losses.measure(tmp_path) == ()
    assert losses.measure(tmp_path / "absent") == ()
    assert "nothing of note" in "\n".join(announcement((), SlotStatus(), SlotStatus()))
    assert "cannot be seen" in "\n".join(announcement(None, SlotStatus(), SlotStatus()))


def test_the_announcement_says_what_is_kept_and_that_the_machine_reboots() -> None:
    text = "\n".join(announcement((), SlotStatus(release=1, version="1.0"), SlotStatus(release=2, version="2.0")))
    assert "1.0 (release 1)) is rewritten with 2.0 (release 2)" in text
    assert "SSH host keys" in text
    assert "reboots twice, under your SSH session" in text
