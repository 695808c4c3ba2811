"""What a power cut leaves of a disk, and what a campaign says about it."""

from __future__ import annotations

import json
import random
import xml.etree.ElementTree as ET
from pathlib import Path

from tests.contract.test_lab_writelog import SIZE, a, write_log
from tests.lab.campaign import LENGTH, plan
from tests.lab.cutreport import Cut, publish
from tests.lab.powercut import Loss, rebuild
from tests.lab.writelog import FLUSH


def test_what_was_flushed_is_there_and_the_rest_as_the_dice_say(tmp_path: Path) -> None:
    before, log, disk = tmp_path / "before", tmp_path / "log", tmp_path / "disk"
    before.write_bytes(bytes(SIZE))
    write_log(log, [(0, 0, a("a", 4)), (FLUSH, 0, b""), (0, 0, a("b", 64))]).close()
    seen = set()
    for seed in range(30):
        loss = rebuild(before, log, disk, random.Random(seed))
        raw = disk.read_bytes()
        new = raw[:64 * 512].count(b"b" * 512)
        assert (loss.entries, loss.in_flight, loss.arrived) == (3, 64, new) and len(raw) == SIZE
        assert all(raw[at:at + 512] in (a("a"), a("b")) for at in range(0, 2048, 512))
        seen.add("none" if new == 0 else "all" if new == 64 else "some")
    assert seen == {"none", "some", "all"}


def test_a_cut_before_the_first_write(tmp_path: Path) -> None:
    before, disk = tmp_path / "before", tmp_path / "disk"
    before.write_bytes(b"as it was".ljust(SIZE, b"\0"))
    assert rebuild(before, tmp_path / "no-log", disk, random.Random(1)) == Loss(0, 0, 0)
    assert disk.read_bytes() == before.read_bytes()


def test_a_life_can_be_repeated() -> None:
    assert plan(7, 3) == plan(7, 3) != plan(7, 4)
    assert {(life.task, life.loader) for life in (plan(number, 1) for number in range(6))} == {
        (task, loader) for task in LENGTH for loader in ("systemd-boot", "grub")}


def test_the_report_counts_and_draws_every_cut(tmp_path: Path) -> None:
    cut = Cut(number=0, life=0, task="update", loader="grub", ticks=900, time=1.0, place="write-image", entries=800,
              in_flight=12, arrived=5)
    cuts = [cut.ended("finished", ""), Cut(**{**vars(cut), "number": 1}).at("kernel").ended("stayed", "said <why>"),
            Cut(**{**vars(cut), "number": 2, "loader": "systemd-boot"}).ended("needs hands", "no SSH\nat all")]
    text = publish(cuts, tmp_path)
    assert "3 cuts in 1 lives: 1 finished, 1 stayed" in text and "1 needing hands" in text
    assert "cut 2 (systemd-boot, in write-image): needs hands: no SSH" in text
    record = json.loads((tmp_path / "summary.json").read_text())
    assert (record["cuts"], record["recovered"], record["needing_hands"]) == (3, 2, 1)
    drawn = ET.fromstring((tmp_path / "cuts.svg").read_text())
    assert sum(1 for _ in drawn.iter("{http://www.w3.org/2000/svg}title")) == 3
