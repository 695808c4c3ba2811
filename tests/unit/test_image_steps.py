"""The steps that check, write and verify slots, on a node in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from k8r_agent.errors import (
    BootError,
    BundleError,
    DiskError,
    DiskTooSmall,
    Incompatible,
    NothingToDo,
    Protected,
    ReadBackMismatch,
    Refused,
    StepFailed,
)
from k8r_agent.image.index import NAME as INDEX
from k8r_agent.model import superblock
from k8r_agent.model.slots import Slot, SlotState, SlotStatus
from k8r_agent.steps.assets import InstallImageAssets
from k8r_agent.steps.check_bundle import CheckBundle, CheckPreviousBundle
from k8r_agent.steps.finish_update import FinishUpdate
from k8r_agent.steps.image_slot import FLASHED
from k8r_agent.steps.verify_image import VerifyImage
from k8r_agent.steps.write_slot import WriteImage, WriteWorking
from tests.fakes import ext4
from tests.fakes.bundles import BLOCK, FakeBundle, fake_bundle, make_assets
from tests.fakes.disks import NUMBERS
from tests.fakes.flashed import MIB
from tests.fakes.slotbench import USED, Node, file_system


@pytest.fixture
def node() -> Node:
    return Node()


def other(node: Node, **changes: Any) -> FakeBundle:
    node.bundle = node.bundles.add(replace(node.bundle, manifest=replace(node.bundle.manifest, **changes)))
    return node.bundle


def test_an_update_writes_the_image_slot_and_says_so(node: Node) -> None:
    node.update()
    assert node.holds(Slot.IMAGE, node.bundle.image_bytes)
    status = node.world.slots.status(Slot.IMAGE)
    assert (status.state, status.release, status.txn) == (SlotState.OK, 2, "t1")
    assert node.world.slots.kept(2, INDEX) == node.bundle.raw_index()
    assert node.world.slots.kept(2, "manifest.toml") == node.bundle.raw_manifest
    assert node.world.machine.lock_log == ["writing the image slot"]  # type: ignore[attr-defined]


def test_the_slot_is_pending_before_its_first_byte(node: Node) -> None:
    seen: list[SlotState] = []
    node.disks.point = lambda name: seen.append(node.world.slots.status(Slot.IMAGE).state) if "write" in name else None
    node.update()
    assert seen and set(seen) == {SlotState.PENDING}


@pytest.mark.parametrize("now", [
    {"current": Slot.IMAGE}, {"primary": Slot.IMAGE}, {"armed": Slot.IMAGE},
])
def test_a_slot_that_runs_or_boots_is_never_written(node: Node, now: dict[str, Any]) -> None:
    node.run(CheckBundle())
    node.boot.now = replace(node.boot.now, **now)
    before = node.slot(Slot.IMAGE)
    with pytest.raises(Protected):
        WriteImage().apply(node.world)
    assert node.slot(Slot.IMAGE) == before
    assert node.world.slots.status(Slot.IMAGE).state is SlotState.UNKNOWN


@pytest.mark.fault(12)
@pytest.mark.parametrize(("changes", "error"), [
    ({"compatible": ("raspberrypi,4-model-b",)}, Incompatible),
    ({"architecture": "arm64"}, Incompatible),
])
def test_a_bundle_for_another_node_is_refused(node: Node, changes: dict[str, Any], error: type[Exception]) -> None:
    other(node, **changes)
    with pytest.raises(error):
        CheckBundle().apply(node.world)
    assert not CheckBundle().done(node.world)


@pytest.mark.fault(33)
@pytest.mark.parametrize(("kind", "size"), [("image", 2 * MIB), ("boot", MIB // 2)])
def test_what_does_not_fit_is_refused_with_the_missing_bytes(node: Node, kind: str, size: int) -> None:
    other(node, artifacts=tuple(replace(a, unpacked_size=size) if a.kind == kind else a
                                for a in node.bundle.manifest.artifacts))
    with pytest.raises(DiskTooSmall) as caught:
        CheckBundle().apply(node.world)
    assert "bytes too many" in str(caught.value)


@pytest.mark.fault(13)
def test_the_release_floor_holds(node: Node) -> None:
    node.world.slots.raise_floor(3)
    with pytest.raises(Incompatible) as caught:
        CheckBundle().apply(node.world)
    assert "rollback" in caught.value.hint


def test_the_same_release_again_is_nothing_to_do_unless_forced_or_damaged(node: Node) -> None:
    node.update()
    node.begin("t2")
    with pytest.raises(NothingToDo):
        CheckBundle().apply(node.world)
    node.begin("t3", force="yes")
    node.update()
    node.begin("t4")
    node.world.slots.set_status(Slot.IMAGE, SlotStatus(state=SlotState.PENDING, release=2))
    node.update()


def test_a_bundle_that_was_replaced_since_the_check_is_refused(node: Node) -> None:
    node.run(CheckBundle())
    node.bundles.add(fake_bundle(3))
    with pytest.raises(BundleError) as caught:
        WriteImage().apply(node.world)
    assert "another bundle" in str(caught.value)
    assert node.world.slots.status(Slot.IMAGE).state is SlotState.UNKNOWN


def test_a_bundle_that_was_replaced_after_the_write_gives_no_kernel(node: Node) -> None:
    node.run(CheckBundle(), WriteImage())
    before = node.boot.assets(Slot.IMAGE)
    node.bundles.add(fake_bundle(3))
    with pytest.raises(BundleError, match="another bundle"):
        InstallImageAssets().apply(node.world)
    assert node.boot.assets(Slot.IMAGE) == before


@pytest.mark.parametrize(("there", "reads"), [(False, 2), (True, 1)])
def test_boot_assets_are_fetched_to_be_checked_and_where_they_are_missing(node: Node, there: bool, reads: int) -> None:
    if there:
        node.boot.install_assets(Slot.IMAGE, node.bundle.assets)
    node.run(CheckBundle(), WriteImage(), InstallImageAssets())
    assert node.bundle.boot_reads == reads and node.boot.assets(Slot.IMAGE) == node.bundle.assets


def test_boot_assets_that_changed_without_a_manifest_to_tell(node: Node) -> None:
    node.bundle = node.bundles.add(replace(node.bundle, raw_manifest=b""))
    node.run(CheckBundle(), WriteImage())
    before = node.boot.assets(Slot.IMAGE)
    node.bundle.assets = make_assets(7)
    with pytest.raises(BundleError, match="another bundle"):
        InstallImageAssets().apply(node.world)
    assert node.boot.assets(Slot.IMAGE) == before


def test_a_damaged_image_leaves_the_slot_pending(node: Node) -> None:
    node.run(CheckBundle())
    node.bundle.image_bytes = node.bundle.image_bytes[:5 * BLOCK] + bytes(BLOCK) + node.bundle.image_bytes[6 * BLOCK:]
    with pytest.raises(BundleError):
        WriteImage().apply(node.world)
    assert node.world.slots.status(Slot.IMAGE).state is SlotState.PENDING
    assert not WriteImage().done(node.world)


def test_a_legacy_image_has_no_hash_until_it_was_written(node: Node) -> None:
    artifacts = tuple(replace(a, unpacked_sha256="", unpacked_size=0) for a in node.bundle.manifest.artifacts)
    bundle = other(node, artifacts=artifacts, compatible=(), architecture="")
    bundle.image_index, bundle.raw_manifest = None, b""
    node.update()
    status = node.world.slots.status(Slot.IMAGE)
    assert len(status.digest) == 64 and status.state is SlotState.OK
    node.run(VerifyImage())


@pytest.mark.fault(23)
def test_rot_in_the_image_slot_is_found_and_remembered(node: Node) -> None:
    node.update()
    node.run(VerifyImage())
    node.begin("t2")
    node.spoil(Slot.IMAGE, 33 * BLOCK)
    with pytest.raises(ReadBackMismatch):
        VerifyImage().apply(node.world)
    assert node.world.slots.status(Slot.IMAGE).state is SlotState.UNKNOWN
    with pytest.raises(Refused):
        VerifyImage().apply(node.world)


def test_an_update_that_ended_before_its_boot_assets_is_no_nothing_to_do(node: Node) -> None:
    node.run(CheckBundle(), WriteImage())
    node.begin("t2")
    node.run(CheckBundle(), WriteImage(), InstallImageAssets(), FinishUpdate())
    assert node.boot.now.image_offered and node.boot.assets(Slot.IMAGE) == node.bundle.assets
    node.begin("t3")
    with pytest.raises(NothingToDo):
        CheckBundle().apply(node.world)


def test_a_slot_that_is_found_whole_is_offered_again(node: Node) -> None:
    node.update()
    node.boot.offer_image(False)
    node.run(VerifyImage())
    assert node.boot.now.image_offered


def test_boot_assets_of_another_release_are_found(node: Node) -> None:
    node.update()
    node.boot.install_assets(Slot.IMAGE, make_assets(7))
    with pytest.raises(BootError):
        VerifyImage().apply(node.world)
    with pytest.raises(StepFailed):
        FinishUpdate().apply(node.world)


def test_rollback_takes_the_kept_release_and_no_other(node: Node) -> None:
    node.update()
    newer = fake_bundle(3, image=file_system(3), used=USED, source="/newer", compatible=("generic-x86_64",))
    node.bundle = node.bundles.add(newer)
    node.begin("t2", source="/newer")
    node.update()
    node.world.slots.set_status(Slot.WORKING, SlotStatus(state=SlotState.OK, release=3))
    node.world.slots.raise_floor(3)
    node.begin("t3")
    node.run(CheckPreviousBundle(), WriteImage())
    assert node.holds(Slot.IMAGE, file_system(2))
    node.begin("t4", source="/newer")
    with pytest.raises(Refused) as caught:
        CheckPreviousBundle().apply(node.world)
    assert "release 3" in str(caught.value)


def test_rollback_without_a_kept_release_is_refused(node: Node) -> None:
    for args in ({}, {"release": "9"}, {"release": "x"}):
        node.begin("t", **args)
        with pytest.raises(Refused):
            CheckPreviousBundle().apply(node.world)


def reinstalling() -> Node:
    """In the image slot, which was flashed with release 1, and past the point of no return."""
    node = Node(current=Slot.IMAGE, primary=Slot.IMAGE)
    node.bundle.assets = make_assets(1)
    node.boot.install_assets(Slot.IMAGE, node.bundle.assets)
    return node


@pytest.mark.parametrize("flashed", [True, False])
def test_a_freshly_flashed_image_is_copied_with_a_uuid_of_its_own(flashed: bool) -> None:
    node = reinstalling()
    image = file_system(1)
    if flashed:
        node.bundles.add(fake_bundle(5, image=image, used=USED, source=FLASHED))
    node.spoil(Slot.WORKING, 50 * BLOCK)
    node.run(WriteWorking())
    found, source = node.slot(Slot.WORKING), node.slot(Slot.IMAGE)
    assert source == image, "the image slot is only read"
    assert found[BLOCK:50 * BLOCK] == image[BLOCK:50 * BLOCK]
    assert found[50 * BLOCK:50 * BLOCK + 3] == (b"rot" if flashed else bytes(3)), "unused blocks are left as they are"
    new, old = superblock.parse(found[1024:2048]), superblock.parse(image[1024:2048])
    assert new and old and new.label == "writable" and new.uuid != old.uuid and ext4.intact(found[1024:2048])
    status = node.world.slots.status(Slot.IMAGE)
    assert (status.state, status.release) == (SlotState.OK, 5 if flashed else 1)
    assert node.world.slots.status(Slot.WORKING).release == status.release
    node.run(VerifyImage())


def test_the_image_slot_may_have_what_runs_even_below_the_floor(node: Node) -> None:
    node.world.slots.raise_floor(3)
    with pytest.raises(Incompatible):
        CheckBundle().apply(node.world)
    digest = node.bundle.manifest.artifacts[0].unpacked_sha256
    node.world.slots.set_status(Slot.WORKING, SlotStatus(state=SlotState.OK, release=2, digest=digest))
    node.update()


class Damaged(FakeBundle):
    """One whose file on the boot partition lost a sector."""

    what = "index"

    def raw_index(self) -> bytes:
        if self.what == "index":
            raise BundleError("image.index.json is not the file that the manifest lists")
        return super().raw_index()[:-9] + b"\0" * 9 if self.what == "JSON" else super().raw_index()


@pytest.mark.parametrize("what", ["index", "JSON", "size"])
def test_damaged_bundle_files_on_the_boot_partition_are_no_end_of_a_first_boot(what: str) -> None:
    node, image = reinstalling(), file_system(1)
    bundle = Damaged(**fake_bundle(5, image=image, used=USED, source=FLASHED).__dict__)
    bundle.what = what
    if what == "size":
        bundle.manifest = replace(bundle.manifest, artifacts=tuple(
            replace(a, unpacked_size=a.unpacked_size + BLOCK) for a in bundle.manifest.artifacts))
    node.bundles.add(bundle)
    node.spoil(Slot.WORKING, 50 * BLOCK)
    node.run(WriteWorking())
    assert node.slot(Slot.WORKING)[BLOCK:] == image[BLOCK:], "all blocks are copied"
    status = node.world.slots.status(Slot.IMAGE)
    assert (status.state, status.release, status.version) == (SlotState.OK, 1, "as flashed")
    assert any("taken as it is" in text for text in node.world.report.texts)  # type: ignore[attr-defined]


@pytest.mark.fault(23)
def test_an_image_that_rotted_after_it_was_verified_is_not_copied() -> None:
    node = reinstalling()
    node.bundles.add(fake_bundle(5, image=file_system(1), used=USED, source=FLASHED))
    node.spoil(Slot.IMAGE, 31 * BLOCK)
    with pytest.raises(DiskError) as caught:
        WriteWorking().apply(node.world)
    assert "damaged" in str(caught.value)
    assert node.world.slots.status(Slot.WORKING).state is SlotState.PENDING


def test_a_reinstall_writes_the_working_slot_even_when_the_release_is_the_same() -> None:
    node = reinstalling()
    node.run(WriteWorking())
    node.begin("t2")
    assert not WriteWorking().done(node.world)
    node.spoil(Slot.WORKING, 5 * BLOCK)
    node.run(WriteWorking())
    assert node.slot(Slot.WORKING)[BLOCK:20 * BLOCK] == file_system(1)[BLOCK:20 * BLOCK]


def test_another_image_than_the_transaction_began_with_is_not_copied() -> None:
    node = reinstalling()
    node.run(WriteWorking())
    node.begin("t2")
    node.world.remember("digest", "0" * 64)
    with pytest.raises(Protected):
        WriteWorking().apply(node.world)


def test_an_image_whose_uuid_cannot_be_changed_is_refused_before_anything_is_written() -> None:
    node = reinstalling()
    start, _ = node.disks.kernel[NUMBERS[Slot.IMAGE]]
    raw = bytearray(node.disks.medium.read(start, BLOCK))
    raw[1024 + 0x61] &= ~0x20  # metadata_csum_seed
    node.disks.medium.write(start, bytes(raw))
    node.disks.medium.flush()
    with pytest.raises(BundleError) as caught:
        WriteWorking().apply(node.world)
    assert "metadata_csum_seed" in caught.value.hint
    assert node.world.slots.status(Slot.WORKING).state is SlotState.UNKNOWN
