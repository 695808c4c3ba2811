"""The state partition: made once, then never formatted again.

When may mkfs run? Only while the boot partition says that the partition was just made (`new=` in k8r/state, written
before the table write that makes it, for exactly the IDs of that table) AND the partition carries no signature. That
something is missing, be it a marker, a superblock or both, never leads to mkfs. Between mkfs and marker a power cut
leaves a file system that is recognised by its UUID, which follows from the IDs that this life of the disk was given
(model/marker.py). In every other case the partition's content stays, and the agent says NoState.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Protocol

from k8r_agent.errors import K8rError, NoState, Protected, Refused, StateError
from k8r_agent.model import marker as markers
from k8r_agent.model.layout import STATE, STATE_LABELS, Disk, Partition
from k8r_agent.model.partitioning import state_label
from k8r_agent.model.slots import Slot
from k8r_agent.ports.blockdev import Disks
from k8r_agent.ports.bootfiles import BootFiles
from k8r_agent.ports.statefiles import StateFiles

FORMAT = 1
OF_A_LIFE = ("transaction.json", "slots.json", "queue")  # said of another life of the disk: means nothing in this one


class Mounts(Protocol):
    """How the partition gets to /var/lib/k8r (effects/statemount.py)."""

    def visible(self) -> bool:
        """Mounted where everybody looks."""

    def stage(self, partition: Partition) -> StateFiles:
        """Check it (e2fsck -p) and mount it where nobody looks; nothing to do when it is there already.
        Raises StateError."""

    def unstage(self) -> None: ...

    def publish(self, partition: Partition) -> None:
        """From the hidden place to /var/lib/k8r."""

    def volatile(self) -> StateFiles:
        """The files in RAM that were used until now."""


class NodeStatePartition:
    """The port StatePartition."""

    def __init__(self, *, disks: Disks, boot_files: BootFiles, mounts: Mounts, role: str, foreign: str,
                 now: Callable[[], float] = time.time) -> None:
        """`foreign` is the setting disk.foreign_state: "refuse" or "adopt"."""
        self._disks, self._boot_files, self._mounts = disks, boot_files, mounts
        self._label, self._foreign, self._now = state_label(role), foreign, now

    def mounted(self) -> bool:
        return self._mounts.visible()

    def marker(self) -> str | None:
        """None as well while the partition may still be made."""
        data = self._boot_files.read(markers.PATH)
        found = None if data is None else markers.parse(data)
        return None if found is None or found.new else found.uuid

    def former(self, disk: Disk) -> Partition | None:
        known = markers.parse(self._boot_files.read(markers.PATH) or b"").former
        return self._disks.former_state(disk, known=known)

    def permit(self, disk: str, partition: str, *, fresh: bool, former: Partition | None = None) -> None:
        data = self._boot_files.read(markers.PATH)
        if data is None or markers.parse(data).new:
            self._put(markers.Marker(new=markers.uuid_of_life(disk, partition), fresh=fresh, time=int(self._now()),
                                     disk=disk, former=(former.start, former.size) if former else None))

    def fresh(self) -> bool:
        data, disk = self._boot_files.read(markers.PATH), self._disks.own()
        found, partition = markers.parse(data or b""), disk.partition(STATE)
        return partition is not None and found.fresh and found.new == markers.uuid_of_life(disk.id, partition.uuid)

    def _permitted(self) -> str:
        """UUID of the file system that may be made, "" for none."""
        found = markers.parse(self._boot_files.read(markers.PATH) or b"")
        return "" if found.former else found.new

    def initialise(self) -> None:
        marker = self.marker()
        if self.mounted() and marker:
            return
        self._disks.assert_writable()
        disk = self._disks.own()
        partition = disk.partition(STATE)
        if partition is None or partition.device is None:
            raise NoState("there is no state partition", why=f"{disk.device} has no partition {STATE} in use",
                          hint="`k8r-agent first-boot` makes it")
        if self.mounted():
            self._mark(disk, self._disks.filesystem_uuid(partition))
        elif marker is not None:
            self._mount_initialised(disk, partition, marker)
        else:
            self._first_time(disk, partition)

    def _mkfs(self, partition: Partition, uuid: str) -> str:
        return f"`mkfs.ext4 -U {uuid} -L {self._label} {partition.device}`"

    def _lost(self, partition: Partition, uuid: str) -> str:
        return ("it is never formatted by itself. Try `e2fsck -f` on it. If its content (identity, on a control-plane "
                f"node the cluster) is really to be given up: {self._mkfs(partition, uuid)}, then "
                "`k8r-agent first-boot`")

    def _first_time(self, disk: Disk, partition: Partition) -> None:
        uuid = markers.uuid_of_life(disk.id, partition.uuid)
        signature, found = self._disks.signature(partition), self._disks.filesystem_uuid(partition)
        if signature and found != uuid:
            self._adopt(disk, partition, signature, found, uuid)
            return
        facts = self._disks.facts()
        # The working slot is written after this: a node that runs from it has had its state partition.
        had_one = bool(facts.loader) and facts.slot is Slot.WORKING
        permitted = self._permitted() == uuid and not had_one
        if not permitted and found != uuid:
            raise NoState(f"the state partition {partition.device} and its marker are both gone",
                          why="neither is there a file system, nor does k8r/state on the boot partition say that it "
                              "was never made", hint=self._lost(partition, uuid))
        with self._boot_files.writable():
            pass  # raises when the boot partition is not mounted: what was read of it says nothing then
        try:
            if permitted:
                self._disks.make_filesystem(partition, label=self._label, uuid=uuid)
        except Protected:
            if found != uuid:
                raise
            # Ours, and mounted before: cut between mount and marker. Its content is the state.
        self._take(disk, partition, mark=uuid)

    def _adopt(self, disk: Disk, partition: Partition, signature: str, found: str, uuid: str) -> None:
        where = f"{partition.device} carries {signature} of another life of this disk"
        if self._foreign != "adopt":
            raise Refused(where, why="disk.foreign_state is \"refuse\"",
                          hint="set foreign_state = \"adopt\" in [disk] of k8r.toml to go on with what is there, or "
                               f"{self._mkfs(partition, uuid)} if nothing of it is needed")
        kind, _, label = signature.partition(" ")
        if kind != "ext4" or not found:
            raise Refused(where, why="that is no state partition of a node",
                          hint=f"look what it is; {self._mkfs(partition, uuid)} gives it up")
        staged = self._staged(partition, found)
        why = _not_ours(staged, label)
        if why:
            self._mounts.unstage()
            raise Refused(where, why=why, hint="adopt it with the agent that made it, or give it up: "
                          f"{self._mkfs(partition, uuid)}")
        for name in OF_A_LIFE:
            for path in (*_walk(staged, name), name):
                staged.remove(path)
        self._take(disk, partition, mark=found)

    def _mount_initialised(self, disk: Disk, partition: Partition, marker: str) -> None:
        """Normally the initramfs did this; here the agent was killed in between, or it failed there."""
        found = self._disks.filesystem_uuid(partition)
        expected = marker or markers.uuid_of_life(disk.id, partition.uuid)
        if found != expected:
            raise NoState(f"the state partition {partition.device} is not readable as what it was",
                          why=f"marker: {marker or 'damaged'}; found: {found or 'no file system'}",
                          hint=self._lost(partition, expected))
        self._take(disk, partition, mark="" if marker else found)

    def _take(self, disk: Disk, partition: Partition, *, mark: str) -> None:
        """The marker comes when the content is complete: the next boot mounts what has one."""
        staged, volatile = self._staged(partition, mark or self.marker() or ""), self._mounts.volatile()
        move_in(volatile, staged)
        if mark:
            self._mark(disk, mark)
        self._mounts.publish(partition)
        # What somebody queued in between went to RAM.
        move_in(volatile, staged, only="queue")
        self._mounts.unstage()
        for path in tuple(_walk(volatile, "")):
            volatile.remove(path)

    def _staged(self, partition: Partition, uuid: str) -> StateFiles:
        try:
            return self._mounts.stage(partition)
        except K8rError as error:
            raise NoState(f"the state partition {partition.device} cannot be used", why=str(error),
                          hint=self._lost(partition, uuid)) from error

    def _mark(self, disk: Disk, uuid: str) -> None:
        self._put(markers.Marker(uuid=uuid, time=int(self._now()), disk=disk.id))
        if self.marker() != uuid:
            raise StateError("the boot partition does not keep the marker k8r/state", hint="check it with fsck.vfat")

    def _put(self, marker: markers.Marker) -> None:
        data = markers.build(marker)
        with self._boot_files.writable():
            present = self._boot_files.read(markers.PATH)
            if present is not None and len(present) == markers.LENGTH:
                self._boot_files.write_sector(markers.PATH, data)
            else:
                self._boot_files.put(markers.PATH, data)


def move_in(volatile: StateFiles, state: StateFiles, *, only: str = "") -> None:
    """Copy the store from RAM onto the state partition; run again after an interruption it changes nothing more. But
    not the identity: captured without the kept one in sight, it may be any image's. It is captured again."""
    if not only:
        state.write("format", f"{FORMAT}\n".encode())
    for path in (path for path in _walk(volatile, only) if not path.startswith("identity/")):
        data = volatile.read(path) or b""
        present = state.read(path)
        if path == "events.jsonl":
            if not (present or b"").endswith(data):
                state.append(path, data if not present or present.endswith(b"\n") else b"\n" + data)
        elif present != data:
            state.write(path, data)


def _walk(files: StateFiles, directory: str) -> Iterator[str]:
    for name in files.names(directory):
        path = f"{directory}/{name}" if directory else name
        if files.names(path):
            yield from _walk(files, path)
        else:
            try:
                if files.read(path) is not None:
                    yield path
            except StateError:
                continue  # an empty directory


def _not_ours(files: StateFiles, label: str) -> str:
    """Why a file system is no state partition that this agent can go on with; "" when it is one."""
    data = files.read("format")
    if data is None:
        known = label in STATE_LABELS.values()
        return "" if known else "it has no file `format` and not the label of a state partition"
    text = data.decode("ascii", "replace").strip()
    if not text.isdecimal() or int(text) > FORMAT + 1:
        return f"its format is {text!r}, this agent knows {FORMAT}"
    return ""
