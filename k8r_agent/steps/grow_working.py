"""grow-working: the working system uses its whole partition."""

from __future__ import annotations

from k8r_agent.errors import StepFailed
from k8r_agent.model import superblock
from k8r_agent.model.layout import WORKING
from k8r_agent.model.slots import Slot
from k8r_agent.ports.step import World


class GrowWorking:
    name = "grow-working"
    summary = "Grow the working file system to its partition, online"

    def done(self, world: World) -> bool:
        """The superblock is read from the device: statfs would not count what resize2fs leaves as too little."""
        if world.disks.facts().slot is not Slot.WORKING:
            return False
        partition = world.disks.own().partition(WORKING)
        if partition is None or partition.device is None:
            return False
        with world.disks.open(partition) as device:
            found = superblock.parse(device.read(superblock.OFFSET, superblock.LENGTH))
        return found is not None and partition.size - found.size < found.tail

    def apply(self, world: World) -> None:
        slot = world.disks.facts().slot
        if slot is not Slot.WORKING:
            raise StepFailed("the working system can only be grown while it runs", why=f"running: {slot}")
        world.disks.grow_root()
