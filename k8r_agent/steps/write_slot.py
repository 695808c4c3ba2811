"""Writing a slot: the image slot from a bundle, the working slot from the image slot or, where that one runs without
a working slot, from a bundle too.

The order that makes it safe to lose power anywhere: nothing that runs or boots by default is a target (asserted
here, where the write happens); the slot is pending, durably, before its first byte; it is ok only after the medium
returned what was written.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from dataclasses import replace

from k8r_agent.errors import BundleError, ContentChanged, Protected
from k8r_agent.image import readback
from k8r_agent.image.ext4 import Relabel
from k8r_agent.image.sources import SlotImage
from k8r_agent.image.write import Patch, Written, write
from k8r_agent.model.layout import LABELS, WORKING
from k8r_agent.model.slots import Slot, SlotState, SlotStatus
from k8r_agent.model.units import format_duration, format_size
from k8r_agent.ports.blockdev import BlockDevice
from k8r_agent.ports.bundle import Bundle, ImageSource
from k8r_agent.ports.step import World
from k8r_agent.steps import image_slot
from k8r_agent.steps.check_bundle import manifest_digest

_CHANGES = 3  # times that a file may change on its server during one attempt


class WriteImage:
    name = "write-image"
    summary = "Write the new release into the image slot"

    def done(self, world: World) -> bool:
        return _written(world, Slot.IMAGE) and world.slots.status(Slot.IMAGE).digest == world.recall("digest")

    def apply(self, world: World) -> None:
        with world.bundles.open(world.recall("source")) as bundle:
            status, written = _fetch(world, Slot.IMAGE, bundle)
            image_slot.keep(world, bundle, written.index)
        image_slot.set_status(world, Slot.IMAGE, SlotState.OK, status)


class WriteWorking:
    """A block copy of the image slot with UUID and label of its own. What the image does not use is left as it is."""

    name = "write-working"
    summary = "Write the working slot from the image slot"

    def done(self, world: World) -> bool:
        return (_written(world, Slot.WORKING)
                and world.slots.status(Slot.WORKING).digest == world.slots.status(Slot.IMAGE).digest)

    def apply(self, world: World) -> None:
        image = image_slot.known_or_adopted(world)
        wanted = world.recall("digest")
        if wanted and wanted != image.status.digest:
            raise Protected("the working slot is not written",
                            why="the image slot does not hold what this transaction began with")
        with world.disks.open(image_slot.partition(world, Slot.IMAGE)) as slot:
            source = SlotImage(slot, image.index, digest=image.status.digest)
            patch = Relabel(slot.read(0, 4096), uuid=uuid.uuid4(), label=LABELS[WORKING])
            with _target(world, Slot.WORKING, image.status) as device:
                _write(world, Slot.WORKING, device, source, patch)
        image_slot.set_status(world, Slot.WORKING, SlotState.OK, image.status)


class FetchWorking:
    """Straight from the bundle, with UUID and label of its own: while the image slot runs it cannot be the source of
    another release."""

    name = "fetch-working"
    summary = "Write the working slot from the bundle"

    def done(self, world: World) -> bool:
        return _written(world, Slot.WORKING) and world.slots.status(Slot.WORKING).digest == world.recall("digest")

    def apply(self, world: World) -> None:
        with world.bundles.open(world.recall("source")) as bundle:
            status, _ = _fetch(world, Slot.WORKING, bundle, _relabel_from_start())
        image_slot.set_status(world, Slot.WORKING, SlotState.OK, status)


def _relabel_from_start() -> Patch:
    """As Relabel, for an image whose beginning is not there before its first chunk comes. Chunks come in order."""
    known: list[Relabel] = []

    def patch(offset: int, data: bytes) -> bytes:
        if offset == 0:
            known[:] = [Relabel(data, uuid=uuid.uuid4(), label=LABELS[WORKING])]
        return known[0](offset, data)
    return patch


def _fetch(world: World, slot: Slot, bundle: Bundle, patch: Patch | None = None) -> tuple[SlotStatus, Written]:
    """Write the bundle that was checked. The status returned is not yet stored."""
    if manifest_digest(bundle) != world.recall("manifest"):
        raise BundleError(f"{bundle.source} holds another bundle than the one that was checked",
                          why=f"release {bundle.manifest.release} now", hint="run the update again")
    status = SlotStatus(release=bundle.manifest.release, version=bundle.manifest.version,
                        digest=world.recall("digest"))
    with _target(world, slot, status) as device:
        for left in reversed(range(_CHANGES)):
            try:
                with bundle.image() as source:
                    written = _write(world, slot, device, source, patch)
                break
            except ContentChanged:
                if not left:
                    raise
    if not status.digest:  # legacy: nobody knew it before
        status = replace(status, digest=written.digest)
        world.remember("digest", written.digest)
    return status, written


def _written(world: World, slot: Slot) -> bool:
    """By this transaction: the same release written by an earlier one was used since."""
    status = world.slots.status(slot)
    return world.txn is not None and status.state is SlotState.OK and status.txn == world.txn.id


@contextlib.contextmanager
def _target(world: World, slot: Slot, status: SlotStatus) -> Iterator[BlockDevice]:
    """The slot's partition, exclusively; marked as pending before it is handed out."""
    facts, boot = world.disks.facts(), world.boot.state()
    for wrong, why in ((facts.slot is slot or boot.current is slot, "the node runs from it"),
                       (boot.primary is slot, "the node boots it by default"),
                       (boot.armed is slot, "the next boot is armed to try it")):
        if wrong:
            raise Protected(f"the {slot} slot is not written", why=why)
    world.disks.assert_writable()
    with world.machine.inhibit(f"writing the {slot} slot"), \
            world.disks.open(image_slot.partition(world, slot), write=True) as device:
        if slot is Slot.IMAGE:  # power cuts may use up working's tries before anybody can say that it is well
            world.boot.offer_image(False)
        image_slot.set_status(world, slot, SlotState.PENDING, status)
        yield device


def _write(world: World, slot: Slot, device: BlockDevice, source: ImageSource, patch: Patch | None = None) -> Written:
    world.report.status(f"writing the {slot} slot")
    written = write(device, source, report=world.report, patch=patch)
    world.report.status(f"reading the {slot} slot back")
    readback.verify(device, written.index, report=world.report, changed=written.changed,
                    hint="the medium does not keep what is written to it: replace it")
    world.report.status(
        f"{slot} slot: {format_size(written.written)} written, {format_size(written.skipped)} were there already, "
        f"{format_size(written.fetched)} fetched, in {format_duration(written.seconds)}")
    return written
