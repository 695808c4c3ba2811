"""partition-disk: the whole disk belongs to the node."""

from __future__ import annotations

import uuid

from k8r_agent.cluster.role import state_role
from k8r_agent.model.layout import STATE, WORKING
from k8r_agent.model.partitioning import Layout, plan
from k8r_agent.ports.step import World


class PartitionDisk:
    """Grow the image slot, add the working slot and the state partition, give disk and partitions fresh IDs: one
    table, written once. An interrupted write is recognised by the table itself and finished."""

    name = "partition-disk"
    summary = "Use the whole disk: grow the image slot, make room for working slot and state"

    def done(self, world: World) -> bool:
        disk = world.disks.own()
        parts = (disk.partition(WORKING), disk.partition(STATE))
        return not disk.fault and all(p is not None and p.device is not None for p in parts)

    def apply(self, world: World) -> None:
        """Raises DiskTooSmall, DiskAmbiguous, DiskError, and ConfigError: sizes that nobody meant are for good."""
        world.disks.assert_writable()
        for mistake in world.mistakes:
            raise mistake
        disk = world.disks.own()
        wanted = plan(disk, image_size=world.settings.disk.image_size, state_size=world.settings.disk.state_size,
                      role=state_role(world.settings), new_id=lambda: str(uuid.uuid4()))
        if wanted is None:
            if not disk.fault:
                return
            world.report.status(f"mending the partition table ({disk.fault})")
            wanted = Layout(id=disk.id, partitions=disk.partitions)
        elif wanted.note:
            world.report.status(wanted.note)
        if disk.partition(STATE) is None:
            state = next(p for p in wanted.partitions if p.number == STATE)
            world.state.permit(wanted.id, state.uuid, fresh=disk.partition(WORKING) is None)
        world.disks.write_table(disk, wanted.partitions, new_id=wanted.id)
