"""The end of an update: slot and boot assets belong together, and the node boots as before."""

from __future__ import annotations

from k8r_agent.errors import StepFailed
from k8r_agent.image.bootassets import assets_digest
from k8r_agent.model.slots import Slot, SlotState
from k8r_agent.ports.step import World
from k8r_agent.steps import image_slot


class FinishUpdate:
    name = "finish-update"
    summary = "See that the image slot is complete"

    def done(self, world: World) -> bool:
        return bool(world.recall("digest")) and world.recall("finished") == world.recall("digest")

    def apply(self, world: World) -> None:
        status = world.slots.status(Slot.IMAGE)
        if status.state is not SlotState.OK or status.digest != world.recall("digest"):
            raise StepFailed("the image slot is not what this update wrote", why=f"it is {status.state}")
        assets, expected = world.boot.assets(Slot.IMAGE), image_slot.kept_boot_digest(world, status.release)
        if assets is None or assets_digest(assets) != expected:
            raise StepFailed("the image slot's boot assets do not belong to its release",
                             hint="`k8r-agent slot install-assets image`")
        world.remember("finished", status.digest)
        world.report.status(f"release {status.release} ({status.version}) is in the image slot; "
                            "`k8r-agent reinstall` moves the node to it")
