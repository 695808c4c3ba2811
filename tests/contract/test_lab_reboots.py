"""Which rebuilt disks are booted, how far, and what counts as the lab's own fault."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from k8r_agent.model.slots import Slot
from tests.contract.test_lab_bootjudge import fat
from tests.contract.test_lab_sectors import Life, decision
from tests.contract.test_lab_writelog import Step, a, replay
from tests.lab import reboots, sectors, variables
from tests.lab.disks import Span
from tests.lab.reboots import LOGIN_EVERY, Kept, LabFault, Result, State, comes_up, distinct, draw, fault, fingerprint
from tests.lab.serial import Serial
from tests.lab.variables import Phase
from tests.lab.writelog import FLUSH, Replay


def test_of_disks_that_are_the_same_one_is_booted(tmp_path: Path) -> None:
    steps: list[Step] = [(0, 0, a("a", 2)), (FLUSH, 0, b""), (0, 0, a("a", 8)), (0, 512, a("b")), (0, 512, a("c"))]
    disk = replay(tmp_path, steps, start=a("a", 7))
    drawn = [State(n, "any moment", 5, n) for n in range(400)]
    found = distinct(disk, drawn, 400)
    # Of sector 1 the old or either new content, of the last sector the old or the new: the others do not change.
    assert len(found) == 6 and found[0] == drawn[0] and found == sorted(found, key=lambda state: state.number)
    assert distinct(disk, drawn, 2) == found[:2]


def test_another_moment_and_a_boot_without_firmware_are_another_state(tmp_path: Path) -> None:
    disk = replay(tmp_path, [(0, 0, a("a")), (FLUSH, 0, b""), (0, 512, a("b")), (FLUSH, 0, b"")])
    kind = "partition table"
    whole, later, bare = State(0, kind, 2, 1), State(1, kind, 4, 1), State(2, f"{kind}, no firmware", 2, 1)
    assert len({fingerprint(disk, state) for state in (whole, later, bare)}) == 3
    assert fingerprint(disk, whole) == fingerprint(disk, State(5, "boot partition", 2, 9)), "nothing was in flight"


class Recorded:
    """A stand-in of a recorded life: one log, partition 1 as it is told."""

    def __init__(self, disk: Replay, table: str = "gpt") -> None:
        self._disk, self.log, self.table, self.size = disk, disk.log, table, disk.size
        self.spans = {1: Span(1, 0, disk.size, "", "")}

    def partition(self, number: int) -> Replay:
        return self._disk


@pytest.mark.parametrize("table", ["gpt", "dos"])
def test_the_end_of_the_disk_is_a_table_only_on_a_gpt(tmp_path: Path, table: str) -> None:
    disk = replay(tmp_path, [(0, 0, a("a")), (0, (1 << 20) - 512, a("b")), (0, 65536, a("c"))])
    record: Any = Recorded(disk, table)
    drawn = draw(record, 300, 1)
    assert drawn == draw(record, 400, 1)[:300], "more states of a seed begin with the same ones"
    entries = {state.position for state in drawn if state.kind == "partition table"}
    assert (2 in entries) == (table == "gpt") and {1, 3} <= entries  # right after, or a little later
    assert any("no firmware" in state.kind for state in drawn) == (table == "gpt")
    assert all(state.login for state in drawn if state.kind == "any moment")
    others = [state for state in drawn if state.kind != "any moment"]
    assert {state.number % LOGIN_EVERY == 0 for state in others if state.login} == {True}


class Console:
    """A stand-in of a node that said something and is on, or off for a reason."""

    def __init__(self, path: Path, text: str, *, on: bool, why: str = "") -> None:
        self.serial, self.on, self.qmp, self._why, self.workdir = Serial(path / "log"), on, self, why, path
        self.serial.attach(io.BytesIO(text.encode()), "power on")
        self.serial.join()
        (path / "qemu.log").write_text("what QEMU said")

    def why_it_ended(self) -> str:
        return self._why


def test_a_dead_qemu_is_no_node_that_does_not_come_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reboots, "LOOK", 0.05)
    monkeypatch.setattr(reboots, "PATIENCE", 0.2)
    up: Any = Console(tmp_path, "node-1 login:", on=True)
    hangs: Any = Console(tmp_path, "panic\n", on=True)
    off: Any = Console(tmp_path, "", on=False, why="guest-shutdown")
    dead: Any = Console(tmp_path, "", on=False)
    assert comes_up(up, "login:") and not comes_up(hangs, "login:") and not comes_up(off, "login:")
    with pytest.raises(LabFault, match="what QEMU said"):
        comes_up(dead, "login:")


def test_login_init_hands_and_faults_are_counted_apart(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "boots.jsonl", 1)
    for n, (login, up) in enumerate([(True, True), (False, True), (False, True), (True, False)]):
        kept.told(Result(State(n, "boot partition", 9, n), login, up, "working", 1, 50.0, 3))
    try:
        raise LabFault("QEMU ended")
    except LabFault:
        kept.failed(State(4, "any moment", 9, 4))
    again = Kept(tmp_path / "boots.jsonl", 1)
    assert again.done() == {0, 1, 2, 3} and Kept(tmp_path / "boots.jsonl", 2).done() == set()
    assert kept.summary() == (
        "4 rebuilt states booted: 1 came up to a login, 2 to their init (asked no further), from another slot or "
        "after lost boots: 0, needing hands: 1; not counted, the lab failed: 1; boot partition: 4")
    assert kept.wrong == 1
    again.told(Result(State(5, reboots.DIRECT, 9, 5), False, False, "working", 1, 50.0, 3, why="it was lost"))
    assert "5 rebuilt states booted (1 by starting the kernel directly)" in again.summary()
    assert "after lost boots: 1, needing hands: 1;" in again.summary() and again.wrong == 2


def boot_of(slot: str, *then: str) -> str:
    return "\n".join(["[ 0.0] Linux version 6.1.0", f"[ 0.0] Command line: boot=k8r k8r.slot={slot} panic=10",
                      f"[ 0.0] Kernel command line: boot=k8r k8r.slot={slot} panic=10", *then, ""])


RUNS, REBOOTS = "systemd[1]: systemd 252 running", "[ 70.1] reboot: Restarting system"


def test_a_node_comes_up_from_the_expected_slot_and_at_once() -> None:
    image, working = boot_of("image", RUNS), boot_of("working", RUNS)
    assert not fault(working, {"working"}) and not fault(image, ("image", "working"))
    assert "the image slot booted, expected was working" in fault(image, {"working"})
    assert "expected was none" in fault(image, ()) and fault("login:", {"image"})
    lost, gave_up = boot_of("working", "Kernel panic - not syncing"), boot_of("working", "k8r: no root", REBOOTS)
    assert "a boot of the working slot was lost: working → working" in fault(lost + working, {"working"})
    assert fault(lost * 3 + image, {"working"}) and fault(gave_up + image, {"working"})
    assert fault(working + working, {"working"}), "nobody asked for that reboot"
    asked = boot_of("image", RUNS, REBOOTS)
    assert not fault(asked + working, {"image"}), "a task goes on"
    assert "4 boots" in fault(asked * 3 + working, {"image"}), "but comes to an end"


def test_the_slot_that_must_boot_is_that_of_the_torn_boot_partition(tmp_path: Path,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    life = Life(tmp_path)
    life.steps.append((0, life.env, decision(primary=Slot.IMAGE)))
    expected: list[Any] = []

    def seen(node: object, state: State, arrived: int, slots: object) -> Result:
        expected.append((arrived, slots))
        return Result(state, state.login, True, "", 1, 1.0, arrived)

    nothing: Any = None
    monkeypatch.setattr(reboots, "overlaid", lambda *args: nothing)
    monkeypatch.setattr(reboots, "booted", seen)
    worker = reboots.Worker(0, life.record(), nothing)
    for seed in range(12):
        worker.boot(State(seed, "any moment", 1, seed))
    assert {slots for arrived, slots in expected if arrived} == {("image",)}
    assert {slots for arrived, slots in expected if not arrived} == {("working",)}


def test_the_state_partition_is_judged_from_its_last_marker_on(tmp_path: Path) -> None:
    """`new=` comes before the table and mkfs, which may be cut."""
    start = fat(tmp_path / "start.img", {"k8r/state": b"new=4711\n".ljust(512, b"\n")}).read_bytes()
    at = start.index(b"new=4711")
    disk = replay(tmp_path, [(0, 8192, a("x")), (FLUSH, 0, b""), (0, at, b"uuid=4711\n".ljust(512, b"\n")),
                             (FLUSH, 0, b"")], start=start)
    record: Any = Recorded(disk)
    assert sectors._marked(record) == 4


def test_a_cut_while_a_variable_is_written_leaves_the_slot_from_before_or_after() -> None:
    arm, boot = Phase("arm", 100, 220, "working", "image"), Phase("boot", 500, 500, "image", "working")
    assert arm.allowed(100) == {"working"} and arm.allowed(220) == {"image"}
    assert arm.allowed(101) == arm.allowed(219) == {"working", "image"}
    drawn = variables.draw([arm, boot], 60, 1)
    assert [state.position for state in drawn[:4]] == [100, 500, 220, 500], "the ends of each operation come first"
    assert variables.draw([arm, boot], 80, 1)[:60] == drawn
    assert len({state.position for state in drawn if state.kind == "arm"}) > 20
    assert all(100 <= state.position <= 220 for state in drawn if state.kind == "arm")
