"""What a power cut leaves of a disk, and what a campaign says about it."""

from __future__ import annotations

import io
import json
import random
import subprocess
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.contract.test_lab_writelog import SIZE, a, write_log
from tests.lab.campaign import Campaign, keep_disk, needs_hands
from tests.lab.cutreport import Cut, place_of, publish
from tests.lab.disks import Span
from tests.lab.life import (
    PER_LIFE,
    TASKS,
    TO_BOOT,
    TO_WORK,
    Broken,
    Plan,
    Stranded,
    at_rest,
    check,
    cut_at,
    judge,
    plan,
)
from tests.lab.powercut import Loss, rebuild
from tests.lab.serial import Serial
from tests.lab.writelog import FLUSH

MIB = 1 << 20


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


def a_cut(number: int = 0, **other: Any) -> Cut:
    return Cut(**{"number": number, "life": number // PER_LIFE, "task": "update", "loader": "grub", "ticks": 900,
                  "began": 1000.0, "time": 1100.0, "place": "write-image", "entries": 800, "in_flight": 12,
                  "arrived": 5, **other})


def test_a_life_can_be_repeated() -> None:
    assert plan(7, 3) == plan(7, 3) != plan(7, 4)
    assert {(life.task, life.loader) for life in (plan(number, 1) for number in range(6))} == {
        (task, loader) for task in TASKS for loader in ("systemd-boot", "grub")}


def test_a_third_of_the_moments_are_in_a_boot_and_no_later_one_before_it() -> None:
    lives = [plan(number, 5) for number in range(600)]
    for index in range(PER_LIFE):
        boots = [life for life in lives if life.moments[index] < TO_BOOT[life.task]]
        assert 0.2 < len(boots) / len(lives) < 0.4
        late = max(life.moments[index] / (TO_BOOT[life.task] + TO_WORK[life.task] / (1 + index / 2)) for life in lives)
        assert 0.95 < late <= 1


def status(current: str, primary: str, state: str, *, working: str = "ok", releases: tuple[int, int] = (2, 2),
           **other: Any) -> dict[str, Any]:
    return {"current": current, "queue": [], "boot": {"primary": primary, "armed": None},
            "transaction": {"task": "reinstall", "state": state, "note": "three lost boots"},
            "slots": {"working": {"release": releases[0], "state": working},
                      "image": {"release": releases[1], "state": "ok"}}, **other}


def test_a_node_is_at_rest_once_it_runs_what_it_boots() -> None:
    assert at_rest(status("working", "working", "done")) and at_rest(status("image", "image", "failed"))
    assert not at_rest(status("image", "working", "done")), "out of tries: it goes back by itself"
    assert not at_rest(status("working", "working", "running")) and not at_rest({**status("image", "image", "done"),
                                                                                 "boot": None})
    assert not at_rest(status("image", "image", "failed", boot={"primary": "image", "armed": "working"}))
    assert not at_rest(status("working", "working", "done", queue=[{"id": "1"}]))


def test_a_good_end_and_one_that_needs_hands() -> None:
    assert judge(status("working", "working", "done"), "reinstall", 1) == "done"
    assert judge(status("image", "image", "failed", working="pending"), "reinstall", 3) == "failed"
    with pytest.raises(Stranded, match="failed after 2 cuts, though nothing fails before 3: three lost boots"):
        judge(status("image", "image", "failed", working="pending"), "reinstall", 2)
    for found in (status("image", "image", "done"), status("working", "working", "done", releases=(1, 2)),
                  status("working", "working", "failed", working="pending"), status("image", "working", "failed"),
                  status("image", "image", "failed", transaction={"state": "failed", "note": ""})):
        with pytest.raises(Stranded):
            judge(found, "reinstall", 3)


def test_only_a_cut_strands_a_node_and_the_rest_is_the_labs_fault() -> None:
    cuts = [a_cut()]
    assert needs_hands(Stranded(), cuts) and needs_hands(TimeoutError(), cuts)
    assert not needs_hands(Broken(), cuts) and not needs_hands(OSError(28, "no space"), cuts)
    assert not needs_hands(Stranded(), [])


def test_the_disk_of_a_node_that_needs_hands_is_kept(tmp_path: Path) -> None:
    class Off:
        """A stand-in of a life and of its node."""

        workdir, cuts = tmp_path / "lab", 0

        @property
        def node(self) -> Off:
            return self

        def cut(self) -> None:
            self.cuts += 1

    Off.workdir.mkdir()
    for name in ("before.img", "disk.img", "writes.log"):
        (Off.workdir / name).write_text(name)
    life: Any = Off()
    kept = tmp_path / "stranded" / "life-001"
    keep_disk(life, kept)
    assert {path.name: path.read_text() for path in kept.iterdir()} == {
        name: name for name in ("before.img", "disk.img")}
    (Off.workdir / "disk.img").write_text("of a later call")
    keep_disk(life, kept)
    assert life.cuts == 2 and {path.name for path in kept.iterdir()} == {"disk.img"}
    assert (kept / "disk.img").read_text() == "of a later call"


class Machine:
    """A stand-in of a node under a plug: a tick for each look, at rest after some of them."""

    def __init__(self, *, rests_after: int = 1 << 30) -> None:
        self.now, self._rests_after = 0, rests_after
        self.cut: list[tuple[int, bool]] = []

    def ticks(self) -> int:
        self.now += 1
        return self.now

    def rests(self) -> bool:
        return self.now >= self._rests_after

    def pull(self, ticks: int, idle: bool) -> None:
        self.cut.append((ticks, idle))

    def until(self, moment: int, *, trouble: Callable[[], Exception | None] = lambda: None, **other: Any) -> None:
        cut_at(moment, ticks=self.ticks, cut=other.pop("cut", self.pull), rests=self.rests, trouble=trouble, idle=0.05,
               pause=lambda asked: 0.05, **other)


def test_the_plug_is_pulled_at_its_moment() -> None:
    machine = Machine()
    machine.until(5)
    assert machine.cut == [(5, False)]


def test_a_node_at_rest_does_not_wait_for_a_moment_that_never_comes() -> None:
    machine = Machine(rests_after=3)
    machine.until(1 << 40)
    assert len(machine.cut) == 1 and machine.cut[0][1]


def test_a_node_that_hangs_is_not_cut_but_told() -> None:
    machine = Machine()
    with pytest.raises(Stranded, match="did not come to rest"):
        machine.until(1 << 40, patience=0.3)
    with pytest.raises(Stranded, match="off"):
        machine.until(1 << 40, trouble=lambda: Stranded("off"))
    now = machine.now
    time.sleep(0.3)
    assert machine.cut == [] and machine.now == now, "nobody waits for the moment any more"


def test_a_cut_that_fails_is_told_at_once_and_a_node_that_is_off_then_is_no_trouble() -> None:
    def fail(ticks: int, idle: bool) -> None:
        time.sleep(0.3)
        raise OSError(28, "no space left")

    with pytest.raises(OSError, match="no space"):
        Machine().until(1, cut=fail, trouble=lambda: Stranded("off"))


def test_a_cut_was_in_the_step_of_its_own_boot() -> None:
    def event(at: float, kind: str, step: str = "write-image", task: str = "update") -> dict[str, Any]:
        return {"time": at, "kind": kind, "step": step, "task": task}

    cut = a_cut(place="")
    assert place_of(cut, []) == place_of(cut, [event(900, "started"), event(1200, "started")]) == "boot"
    assert place_of(cut, [event(1001, "started"), event(1100.5, "succeeded")]) == "write-image"
    assert place_of(cut, [event(1001, "started"), event(1050, "succeeded"), event(1051, "note", "")]) \
        == "after write-image"
    assert place_of(cut, [event(1001, "started", task="join")]) == "boot"
    end = event(1060, "failed", "")
    assert place_of(cut, [event(1001, "started"), end]) == "idle" and place_of(cut, [{**end, "time": 990}]) == "boot"
    assert place_of(cut, [event(1001, "started"), end, event(1061, "started")]) == "write-image", "it was begun again"


def test_the_console_tells_the_loader_from_a_system_that_welcomes(tmp_path: Path) -> None:
    lines = ["BdsDxe: loading Boot0001", "Welcome to GRUB!", "k8r: image/a", "[    0.0] Linux version 6.1.0",
             "Begin: Mounting root file system ...", "[   13.7] k8r: slot image on vda2, booted from vda1 by grub",
             "[   16.4] systemd[1]: systemd 252 running in system mode", "Welcome to Debian GNU/Linux 12 (bookworm)!",
             "k8r: working/b"]
    serial = Serial(tmp_path / "console.log")
    serial.attach(io.BytesIO("\n".join([*lines, ""]).encode()), "power on")
    serial.join()
    assert [name for _, name in serial.milestones] == [
        "firmware", "loader", "kernel", "initramfs", "systemd", "loader"]


class Told:
    """A stand-in of the virtual machines: lives end as it is said, else finished."""

    def __init__(self, **ends: str) -> None:
        self.ends, self.asked = ends, list[int]()

    def __call__(self, build: Path, home: Path, life: Plan) -> list[Cut]:
        self.asked.append(life.number)
        end = self.ends.get(f"n{life.number}", "finished")
        if end == "broken":
            raise Broken("QEMU ended\nsomehow")
        if end == "error":
            raise OSError(28, "no space left")
        place, number = ("idle", 1) if end == "rests" else ("write-image", PER_LIFE)
        return [a_cut(life.number * PER_LIFE + n, place=place).ended(end, "") for n in range(number)]


def test_a_campaign_goes_on_until_its_cuts_are_made_and_keeps_what_was(tmp_path: Path) -> None:
    told = Told(n1="needs hands")
    first = Campaign(tmp_path, 1, tell=told)
    first.run(lambda: first.further(5), 2)
    assert sorted(told.asked) == [0, 1] and len(first.cuts()) == 6
    again = Campaign(tmp_path, 1, tell=told)
    again.run(lambda: again.further(9), 2)
    assert told.asked[2:] == [2] and again.further(9) is None
    record = json.loads((again.home / "summary.json").read_text())
    assert (record["cuts"], record["recovered"], record["needing_hands"], record["broken"]) == (9, 6, 3, [])


def test_cuts_of_nodes_at_rest_are_none_of_those_that_are_wanted(tmp_path: Path) -> None:
    told = Told(n0="rests")
    campaign = Campaign(tmp_path, 1, tell=told)
    campaign.run(lambda: campaign.further(6), 1)
    assert told.asked == [0, 1, 2] and len(campaign.cuts()) == 7 and campaign.further(6) is None
    record = json.loads((campaign.home / "summary.json").read_text())
    assert (record["cuts"], record["at_rest"]) == (7, 1)
    assert "7 cuts in 3 lives, 1 of them at rest: " in (campaign.home / "summary.txt").read_text()


def test_the_record_of_an_earlier_version_can_be_read(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path, 1, tell=Told())
    (campaign.lives / "000.json").write_text(
        '[{"number": 0, "life": 0, "task": "first-boot", "loader": "grub", "ticks": 1725, "time": 1795954999.02, '
        '"place": "idle", "entries": 1036, "in_flight": 0, "arrived": 0, "outcome": "finished", "why": "", '
        '"began": 1795954745.07}]')
    assert [cut.at_rest for cut in campaign.cuts()] == [True] and campaign.further(1) == 1


def test_lives_that_stayed_are_counted_by_their_cuts(tmp_path: Path) -> None:
    cuts = [a_cut(number, place="idle" if number == 5 else "kernel").ended("stayed" if number < 6 else "finished", "")
            for number in range(9)]
    text = publish(cuts, tmp_path)
    assert "6 stayed on a good system and said why (lives after 2 cuts: 1, lives after 3 cuts: 1), 0 needing" in text
    assert json.loads((tmp_path / "summary.json").read_text())["stayed_after"] == {"2": 1, "3": 1}


def test_a_life_that_is_told_again_replaces_none(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path, 1, tell=Told(n0="needs hands"))
    campaign.run(lambda: campaign.further(3), 1)
    again, numbers = Campaign(tmp_path, 1, tell=Told(), home="1-only-0"), iter([0])
    again.run(lambda: next(numbers, None), 1)
    assert {cut.outcome for cut in again.cuts()} == {"finished"}
    assert {cut.outcome for cut in campaign.cuts()} == {"needs hands"}


@pytest.mark.parametrize("how", ["broken", "error"])
def test_what_the_lab_broke_counts_for_nothing_and_is_told_again(tmp_path: Path, how: str) -> None:
    campaign = Campaign(tmp_path, 1, tell=Told(n0=how))
    campaign.run(lambda: campaign.further(6), 1)
    record = json.loads((campaign.home / "summary.json").read_text())
    assert (record["cuts"], record["recovered"]) == (3, 3) and list(campaign.broken) == [0]
    assert "life-000: not counted, the lab failed" in (campaign.home / "summary.txt").read_text()
    later = Told()
    again = Campaign(tmp_path, 1, tell=later)
    again.run(lambda: again.further(6), 1)
    assert later.asked == [0] and len(again.cuts()) == 6


def test_the_report_counts_and_draws_every_cut(tmp_path: Path) -> None:
    cut = a_cut()
    cuts = [cut.ended("finished", ""), Cut(**{**vars(cut), "number": 1}).at("kernel").ended("stayed", "said <why>"),
            Cut(**{**vars(cut), "number": 2, "loader": "systemd-boot"}).ended("needs hands", "no SSH\nat all")]
    text = publish(cuts, tmp_path, ["life-007: QEMU ended"])
    assert "life-007: QEMU ended" in text
    assert "3 cuts in 1 lives, 0 of them at rest: 1 finished, 1 stayed" in text and "1 needing hands" in text
    assert "cut 2 (systemd-boot, in write-image): needs hands: no SSH" in text
    record = json.loads((tmp_path / "summary.json").read_text())
    assert record["broken"] == ["life-007: QEMU ended"]
    assert (record["cuts"], record["recovered"], record["needing_hands"]) == (3, 2, 1)
    drawn = ET.fromstring((tmp_path / "cuts.svg").read_text())
    assert sum(1 for _ in drawn.iter("{http://www.w3.org/2000/svg}title")) == 3


def test_a_file_system_whose_journal_was_not_replayed_is_no_damaged_one(tmp_path: Path) -> None:
    disk, part, script = tmp_path / "disk.img", tmp_path / "part.img", tmp_path / "script"
    subprocess.run(["/sbin/mke2fs", "-q", "-t", "ext4", str(part), "64M"], check=True)
    script.write_text("jo\njw -b 1000 /dev/zero\njc\n")  # one transaction that nobody has replayed
    subprocess.run(["/sbin/debugfs", "-w", "-f", str(script), str(part)], check=True, capture_output=True)
    disk.write_bytes(bytes(MIB) + part.read_bytes())
    done = check(disk, Span(1, MIB, 64 * MIB, "", ""), tmp_path / "copy.img")
    assert done.returncode == 0 and "recovering journal" in done.stdout, done
    disk.write_bytes(disk.read_bytes()[:MIB] + bytes(64 * MIB))
    assert check(disk, Span(1, MIB, 64 * MIB, "", ""), tmp_path / "copy.img").returncode > 1
