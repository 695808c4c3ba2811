"""partition-disk: the whole disk belongs to the node."""

from __future__ import annotations

import uuid

from k8r_agent.cluster.role import state_role
from k8r_agent.errors import Refused
from k8r_agent.model.layout import STATE, WORKING, Disk, Partition
from k8r_agent.model.partitioning import Layout, plan
from k8r_agent.model.units import format_size
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
        """Raises DiskTooSmall, DiskAmbiguous, DiskError, Refused, and ConfigError: sizes that nobody meant are for
        good."""
        world.disks.assert_writable()
        for mistake in world.mistakes:
            raise mistake
        disk = world.disks.own()
        flashed = disk.partition(WORKING) is None and disk.partition(STATE) is None
        former = world.state.former(disk) if flashed else None
        wanted = _wanted(world, disk, former)
        if wanted is None:
            if not disk.fault:
                return
            world.report.status(f"mending the partition table ({disk.fault})")
            wanted = Layout(id=disk.id, partitions=disk.partitions)
        elif wanted.note:
            world.report.status(wanted.note)
        if disk.partition(STATE) is None:
            world.state.permit(wanted.id, _state(wanted).uuid, fresh=disk.partition(WORKING) is None, former=former)
        world.disks.write_table(disk, wanted.partitions, new_id=wanted.id)


def _wanted(world: World, disk: Disk, former: Partition | None) -> Layout | None:
    """`former`, a state partition of another life of the disk, is adopted in its place. Where it is not, it must lie
    where the new one will, for make-state to refuse it: anywhere else it would be written over."""
    said = world.settings.disk
    adopted = former if said.foreign_state == "adopt" else None
    layout = plan(disk, image_size=said.image_size, state_size=said.state_size, role=state_role(world.settings),
                  new_id=lambda: str(uuid.uuid4()), former=adopted)
    if former is None or layout is None:
        return layout
    where = f"{format_size(former.size)} from byte {former.start} on"
    if adopted:
        world.report.status(f"partition {STATE} stays what it was in another life of this disk: {where}")
    elif _state(layout).start != former.start or _state(layout).end < former.end:
        raise Refused(
            f"{disk.device} carries ext4 {former.name} of another life of this disk ({where})",
            why="disk.foreign_state is \"refuse\", and the state partition of this life would lie elsewhere",
            hint="set foreign_state = \"adopt\" in [disk] of k8r.toml to go on with what is there, in its place and "
                 f"size, or `blkdiscard -zf -o {former.start} -l {former.size} {disk.device}` if nothing of it is "
                 "needed")
    return layout


def _state(layout: Layout) -> Partition:
    return next(p for p in layout.partitions if p.number == STATE)
