"""Whatever goes wrong, the node comes up by itself, on the right disk, and says what happened."""

from __future__ import annotations

from typing import Any

import pytest

from tests.node import faults
from tests.node.each import with_each_loader
from tests.node.faults import Seen


def both_at(status: dict[str, Any], release: int) -> bool:
    return all(s["release"] == release and s["state"] == "ok" for s in status["slots"].values())


@pytest.mark.story(tell=faults.cuts, loader="systemd-boot")
class TestCuts:
    @pytest.mark.fault(1)
    def test_update_goes_on_after_a_power_cut(self, told: Seen) -> None:
        assert told.statuses["updated"]["slots"]["image"]["release"] == 2
        assert told.digests["image"] == told.digests["manifest"]

    def test_reinstall_goes_on_after_a_power_cut(self, told: Seen) -> None:
        assert both_at(told.statuses["reinstalled"], 2)
        assert told.statuses["reinstalled"]["boot"]["primary"] == "working"

    def test_the_slot_was_half_written(self, told: Seen) -> None:
        assert told.half_written == [True, True]

    def test_the_interrupted_attempt_is_in_the_log(self, told: Seen) -> None:
        for task, step in (("update", "write-image"), ("reinstall", "write-working")):
            started = [e for e in told.events if (e["task"], e["step"], e["kind"]) == (task, step, "started")]
            assert len(started) >= 2, (task, step)


@pytest.mark.story(tell=faults.first_boot_cut, loader="grub")
class TestCutWhileTheTableIsWritten:
    def test_the_table_is_the_old_or_the_new_one(self, told: Seen) -> None:
        old, cut, new = told.partitions
        assert (old, new) == ([1, 2], [1, 2, 3, 4]) and cut in (old, new)

    def test_the_first_boot_goes_on(self, told: Seen) -> None:
        assert both_at(told.statuses["done"], 1)
        assert told.statuses["done"]["boot"]["primary"] == "working"


@pytest.mark.long
@pytest.mark.story(tell=faults.twins, loader="grub")
class TestTwins:
    @pytest.mark.fault(24)
    def test_nothing_is_written_to_either(self, told: Seen) -> None:
        for what in ("disk", "stick", "copy", "image"):
            assert told.digests[f"{what} before"] == told.digests[f"{what} after"], what

    @pytest.mark.parametrize(("when", "current"), [("fresh", "image"), ("plugged", "working")])
    def test_it_runs_and_says_so(self, told: Seen, when: str, current: str) -> None:
        assert told.statuses[when]["current"] == current
        assert told.statuses[when]["facts"]["duplicate"]
        assert "carries the same IDs" in told.texts[when] and "remove one" in told.texts[when]

    def test_an_update_is_refused(self, told: Seen) -> None:
        assert "are copies of each other" in told.texts["update"] and "unplug one" in told.texts["update"]


@pytest.mark.long
@pytest.mark.story(tell=faults.stick)
class TestStickWithTheSameLabels:
    def test_nothing_is_written_to_it(self, told: Seen) -> None:
        assert told.digests["stick before"] == told.digests["stick after"]

    def test_the_node_does_its_work(self, told: Seen) -> None:
        assert both_at(told.statuses["reinstalled"], 2)


@pytest.mark.long
@pytest.mark.story(tell=faults.kernel_update, loader="grub")
class TestKernelUpdate:
    def test_new_initrd_boots(self, told: Seen) -> None:
        assert told.statuses["rebooted"]["current"] == "working"
        assert "k8r-lab-new-initrd" in told.texts["console"]

    def test_reinstall_brings_the_images_own(self, told: Seen) -> None:
        assert told.statuses["reinstalled"]["current"] == "working"
        assert "k8r-lab-new-initrd" not in told.texts["console after"].rsplit("Linux version", 1)[-1]


@pytest.mark.long
@pytest.mark.story(tell=faults.mbr)
class TestMbr:
    def test_first_boot(self, told: dict[str, Any]) -> None:
        assert told["status"]["current"] == "working" and both_at(told["status"], 1)
        assert (told["table"], sorted(told["sizes"])) == ("dos", ["1", "2", "3", "4"])


@with_each_loader(faults.torn_fat)
def test_directories_that_a_power_cut_tore_are_mended_at_boot_and_written_again(told: Seen) -> None:
    assert "the working slot boots" in told.texts["kernel"]
    assert told.statuses["updated"]["slots"]["image"]["release"] == 2
    assert told.texts["fsck"] == ""
    assert told.statuses["booted"]["current"] == told.statuses["booted"]["boot"]["primary"] == "working"


@with_each_loader(faults.lost_state)
class TestLostState:
    @pytest.mark.fault(29)
    def test_nothing_is_made_in_its_place(self, told: Seen) -> None:
        assert told.digests["before"] == told.digests["after"]

    def test_the_primary_runs_stays_and_says_so(self, told: Seen) -> None:
        status = told.statuses["lost"]
        assert (status["current"], status["boot"]["primary"], status["state"]["persistent"]) == (
            "working", "working", False)
        assert told.texts["reboots"] == "none"
        assert "no state partition" in told.texts["status"] and "k8r-recovery(7)" in told.texts["status"]

    @pytest.mark.parametrize("verb", ["update", "reinstall"])
    def test_nothing_is_begun(self, told: Seen, verb: str) -> None:
        assert "state partition" in told.texts[verb] and "Traceback" not in told.texts[verb]


@with_each_loader(faults.full_state)
class TestFullState:
    def test_the_primary_runs_and_says_so(self, told: Seen) -> None:
        status = told.statuses["full"]
        assert told.texts["room"].split()[-1] == "0"
        assert (status["current"], status["boot"]["primary"], status["state"]["persistent"]) == (
            "working", "working", True)
        assert "the state partition is full: no task goes on or is started" in told.texts["status"]
        assert status["advice"].startswith("the state partition is full: free space on the state partition")

    @pytest.mark.fault(7)
    def test_an_update_is_refused_with_one_error(self, told: Seen) -> None:
        said = told.texts["update"]
        assert said.count("No space left on device") == 1 and "free space on the state partition" in said, said
        assert "Traceback" not in said
        assert told.statuses["full"]["queue"] == []

    def test_with_room_again_it_ends_well(self, told: Seen) -> None:
        status = told.statuses["updated"]
        assert status["transaction"]["task"] == "update" and status["transaction"]["state"] == "done"
        assert (status["slots"]["image"]["release"], status["slots"]["image"]["state"]) == (2, "ok")


@with_each_loader(faults.bad_sector)
class TestBadSector:
    @pytest.mark.fault(23)
    def test_it_is_found_before_the_node_relies_on_it(self, told: Seen) -> None:
        status = told.statuses["refused"]
        assert (status["current"], status["boot"]["primary"], status["boot"]["armed"]) == ("working", "working", None)
        assert "Input/output error" in told.texts["reinstall"] and "Traceback" not in told.texts["reinstall"]
        assert "the medium is failing: replace it" in told.texts["status"]

    def test_with_another_medium_all_is_well(self, told: Seen) -> None:
        assert told.statuses["updated"]["slots"]["image"]["release"] == 2
        assert told.statuses["updated"]["slots"]["image"]["state"] == "ok"
