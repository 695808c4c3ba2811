"""What a node's whole life looks like, on both boot loaders."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lab.site import IMAGE_SIZE, STATE_SIZE
from tests.node.life import Seen, life


class Life:
    loader: str

    def test_first_boot_ends_in_a_confirmed_working_slot(self, told: Seen) -> None:
        first = told.first
        assert (first["current"], first["boot"]["primary"], first["boot"]["armed"]) == ("working", "working", None)
        assert first["boot"]["backend"] == self.loader and first["facts"]["loader"] == self.loader
        assert first["state"]["persistent"] and first["facts"]["duplicate"] in (None, "no")
        assert {slot: status["release"] for slot, status in first["slots"].items()} == {"working": 1, "image": 1}
        assert {status["state"] for status in first["slots"].values()} == {"ok"}

    def test_first_boot_grew_the_image_slot_and_filled_the_disk(self, told: Seen) -> None:
        sizes = told.sizes
        assert sorted(sizes) == [1, 2, 3, 4]
        assert (sizes[2], sizes[4]) == (IMAGE_SIZE, STATE_SIZE)
        assert sizes[3] > 1 << 30

    def test_every_step_left_its_time(self, told: Seen) -> None:
        for task, steps in {"first-boot": ("partition-disk", "make-state", "write-working", "confirm"),
                            "update": ("write-image", "install-image-assets", "finish-update"),
                            "reinstall": ("verify-image", "boot-image", "write-working", "boot-working", "confirm")
                            }.items():
            for step in steps:
                assert ended(told.events, task, step)["duration"] >= 0

    def test_check_saw_the_newer_release(self, told: Seen) -> None:
        assert "2026.11.2" in told.texts["check"]

    def test_somebody_with_an_account_cannot_read_the_boot_partition(self, told: Seen) -> None:
        assert "Permission denied" in told.texts["stranger"]

    def test_image_slot_holds_what_was_signed(self, told: Seen) -> None:
        assert told.images["on the disk"] == told.images["in the manifest"]

    def test_shutdown_is_inhibited_while_a_slot_is_written(self, told: Seen) -> None:
        assert any("k8r" in line and "shutdown" in line for line in told.inhibitors.splitlines()), told.inhibitors

    def test_status_line_of_the_runner_reads_like_a_sentence(self, told: Seen) -> None:
        assert "image" in told.texts["runner"]

    def test_nothing_stays_resident(self, told: Seen) -> None:
        assert told.processes == []

    def test_reinstall_ends_with_the_new_release_on_both_slots(self, told: Seen) -> None:
        status = told.statuses["reinstalled"]
        assert (status["current"], status["boot"]["primary"], status["boot"]["armed"]) == ("working", "working", None)
        assert {slot: s["release"] for slot, s in status["slots"].items()} == {"working": 2, "image": 2}
        assert status["state"]["release_floor"] == 2 and status["queue"] == []

    def test_reinstall_after_300_mb_writes_at_most_a_hundredth_of_the_slot(self, told: Seen) -> None:
        assert 0 < told.written <= told.sizes[3] // 100

    def test_identity_is_kept(self, told: Seen) -> None:
        assert "after" in told.identity and "on a visit" in told.identity
        for point, identity in told.identity.items():
            assert identity == told.identity["before"], point

    def test_added_user_logs_in_with_a_key_after_the_reinstall(self, told: Seen) -> None:
        assert told.texts["ops login"] == "0"

    def test_dhcp_server_knows_the_node_again(self, told: Seen) -> None:
        client_ids = {tuple(lease[1:]) for lease in told.lease.values()}
        assert len(client_ids) == 1, client_ids

    def test_visit_to_the_image_slot_changes_no_byte_of_it(self, told: Seen) -> None:
        assert told.statuses["visit"]["current"] == "image" and told.statuses["visit"]["boot"]["primary"] == "working"
        assert told.images["before a visit"] == told.images["after a visit"]
        assert told.statuses["back"]["current"] == "working"

    def test_no_unit_is_left_out_of_a_boot(self, told: Seen) -> None:
        """systemd breaks a cycle in the order of units by not starting one of them, whichever it is."""
        assert "ordering cycle" not in told.texts["console"]
        assert "Finished k8r-fsck@" in told.texts["console"]

    def test_events_tell_the_whole_life_as_a_table(self, told: Seen) -> None:
        for word in ("first-boot", "update", "reinstall", "write-working", "confirm", "succeeded"):
            assert word in told.texts["events"]


@pytest.mark.story(tell=life, loader="systemd-boot")
class TestSystemdBoot(Life):
    loader = "systemd-boot"

    def test_update_survives_the_loss_of_its_session(self, told: Seen) -> None:
        assert_only_updated(told.statuses["updated"])


@pytest.mark.story(tell=life, loader="grub")
class TestGrub(Life):
    loader = "grub"

    def test_the_daily_check_updates_by_itself_when_it_may(self, told: Seen) -> None:
        assert_only_updated(told.statuses["updated"])


def assert_only_updated(status: dict[str, Any]) -> None:
    assert (status["current"], status["boot"]["primary"], status["boot"]["armed"]) == ("working", "working", None)
    assert status["slots"]["image"]["release"] == 2 and status["slots"]["working"]["release"] == 1


def ended(events: list[dict[str, Any]], task: str, step: str) -> dict[str, Any]:
    return next(e for e in events if (e["task"], e["step"], e["kind"]) == (task, step, "succeeded"))
