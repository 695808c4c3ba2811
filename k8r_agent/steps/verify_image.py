"""The image slot and its boot assets once more, before a reinstall relies on them: bit-rot must not be copied."""

from __future__ import annotations

from k8r_agent.errors import BootError, ReadBackMismatch
from k8r_agent.image import readback
from k8r_agent.image.bootassets import assets_digest
from k8r_agent.model.slots import Slot, SlotState
from k8r_agent.ports.step import World
from k8r_agent.steps import image_slot

FACT = "verified-image"


class VerifyImage:
    name = "verify-image"
    summary = "Read the whole image slot and compare it with its manifest"

    def done(self, world: World) -> bool:
        status = world.slots.status(Slot.IMAGE)
        return status.state is SlotState.OK and world.recall(FACT) == status.digest != ""

    def apply(self, world: World) -> None:
        image = image_slot.known(world)
        _assets(world, image.status.release)
        world.report.status("reading the image slot")
        try:
            with world.disks.open(image_slot.partition(world, Slot.IMAGE)) as device:
                readback.verify(device, image.index, report=world.report)
        except ReadBackMismatch as error:
            image_slot.set_status(world, Slot.IMAGE, SlotState.UNKNOWN, image.status)
            raise ReadBackMismatch("the image slot is damaged", why=str(error),
                                   hint="`k8r-agent update` writes it anew; if that happens again, replace the medium"
                                   ) from error
        if world.remember_fact is not None:
            world.boot.offer_image(True)  # an update that was cancelled at its end left it whole, but not offered
            world.remember(FACT, image.status.digest)


def _assets(world: World, release: int) -> None:
    assets, expected = world.boot.assets(Slot.IMAGE), image_slot.kept_boot_digest(world, release)
    why = "kernel or initrd is missing" if assets is None else "they are not those of the release in the slot"
    if assets is None or (expected and assets_digest(assets) != expected):
        raise BootError("the image slot's boot assets are damaged", why=why,
                        hint="`k8r-agent slot install-assets image`")
