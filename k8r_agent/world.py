"""The real World: every port with what stands behind it on a node.

Nothing is opened, and no library imported, before it is used: `status` and `--help` must not pay for `update`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from k8r_agent.config.settings import Settings
from k8r_agent.effects.statefiles import StateDirectory
from k8r_agent.model.layout import IMAGE
from k8r_agent.model.slots import Slot, SlotState
from k8r_agent.ports.step import World
from k8r_agent.store.slots import SlotStore

if TYPE_CHECKING:
    from k8r_agent.effects.commands import FullCommands
    from k8r_agent.effects.disks import NodeDisks
    from k8r_agent.effects.identity import NodeIdentity
    from k8r_agent.effects.imageroot import MountedImageRoot
    from k8r_agent.effects.kube import NodeCluster
    from k8r_agent.effects.machine import LocalMachine
    from k8r_agent.effects.snapshots import StateSnapshots
    from k8r_agent.effects.statepartition import NodeStatePartition
    from k8r_agent.errors import ConfigError
    from k8r_agent.model.layout import Partition
    from k8r_agent.ports.boot import BootBackend
    from k8r_agent.ports.bootfiles import BootFiles
    from k8r_agent.ports.bundle import Bundles
    from k8r_agent.ports.commands import Commands
    from k8r_agent.ports.machine import Reporter


class Lazy:
    """Stands for an object that is made at its first use."""

    def __init__(self, make: Callable[[], object]) -> None:
        self.__dict__["_lazy_make"] = make

    def __getattr__(self, name: str) -> Any:
        made = self.__dict__.get("_lazy_made")
        if made is None:
            made = self.__dict__["_lazy_made"] = self.__dict__["_lazy_make"]()
        return getattr(made, name)


def real(settings: Settings, mistakes: tuple[ConfigError, ...] = ()) -> World:
    """Reads nothing yet; each part raises its own K8rError when it is used and cannot be."""
    world = _Parts(settings).world()
    world.mistakes = mistakes
    return world


class _Parts:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._files = StateDirectory()
        self._slots = SlotStore(self._files)
        self._commands = cast("Commands", Lazy(_commands))
        self._boot_files = cast("BootFiles", Lazy(self._make_boot_files))
        self._boot = cast("BootBackend", Lazy(self._make_boot))
        self._disks = cast("NodeDisks", Lazy(self._make_disks))
        self._cluster = cast("NodeCluster", Lazy(self._make_cluster))

    def world(self) -> World:
        return World(
            settings=self._settings, disks=self._disks, boot=self._boot, files=self._files, slots=self._slots,
            state=cast("NodeStatePartition", Lazy(self._make_state)),
            bundles=cast("Bundles", Lazy(self._make_bundles)), cluster=self._cluster,
            snapshots=cast("StateSnapshots", Lazy(self._make_snapshots)),
            image_root=cast("MountedImageRoot", Lazy(self._make_image_root)),
            identity=cast("NodeIdentity", Lazy(self._make_identity)),
            machine=cast("LocalMachine", Lazy(self._make_machine)), report=cast("Reporter", Lazy(_reporter)),
            boot_files=self._boot_files, settle=_settle)

    def _make_boot_files(self) -> BootFiles:
        from k8r_agent.effects.bootfiles import MountedBootFiles

        return MountedBootFiles()

    def _make_boot(self) -> BootBackend:
        from k8r_agent.boot import registry
        from k8r_agent.effects.bootfacts import Kernel, read_facts
        from k8r_agent.effects.efivars import LocalEfiVars

        return registry.open_backend(read_facts(Kernel()), self._boot_files, LocalEfiVars(),
                                     tries=self._settings.boot.tries, gpt=lambda: self._disks.own().table == "gpt")

    def _make_disks(self) -> NodeDisks:
        from k8r_agent.effects.disks import NodeDisks

        return NodeDisks(self._commands, primary=lambda: self._boot.state().primary)

    def _make_state(self) -> NodeStatePartition:
        from k8r_agent.cluster.role import state_role
        from k8r_agent.effects.statemount import StateMounts
        from k8r_agent.effects.statepartition import NodeStatePartition

        return NodeStatePartition(disks=self._disks, boot_files=self._boot_files, mounts=StateMounts(self._commands),
                                  role=state_role(self._settings), foreign=self._settings.disk.foreign_state)

    def _make_bundles(self) -> Bundles:
        from k8r_agent.image.bundle import Bundles as RealBundles

        update = self._settings.update
        return RealBundles(self._commands, allow_unsigned=update.allow_unsigned, allow_legacy=update.allow_legacy,
                           ca_file=update.ca_file, legacy_release=self._slots.release_floor)

    def _make_identity(self) -> NodeIdentity:
        from k8r_agent.effects.identity import NodeIdentity

        return NodeIdentity(files=self._files, settings=self._settings, commands=self._commands)

    def _make_cluster(self) -> NodeCluster:
        from k8r_agent.effects.kube import NodeCluster

        return NodeCluster(cast("FullCommands", self._commands))

    def _make_snapshots(self) -> StateSnapshots:
        from k8r_agent.effects.snapshots import StateSnapshots

        return StateSnapshots(lambda args, timeout: self._cluster.etcdctl(args, timeout=timeout))

    def _make_image_root(self) -> MountedImageRoot:
        from k8r_agent.effects.imageroot import MountedImageRoot
        from k8r_agent.errors import Refused

        def partition() -> Partition:
            found = self._disks.own().partition(IMAGE)
            if found is None:
                raise Refused("the disk has no image partition")
            return found

        return MountedImageRoot(self._commands, partition)

    def _make_machine(self) -> LocalMachine:
        from k8r_agent.effects.machine import LocalMachine

        return LocalMachine(network=self._settings.network, expected_release=self._expected_release)

    def _expected_release(self) -> int:
        """Of the running slot, by its status; 0 when that says nothing."""
        status = self._slots.status(Slot(self._disks.facts().slot))
        return status.release if status.state is SlotState.OK else 0


def _settle() -> None:
    """Of the two partitions that decide. What cannot be written is met again by whoever needs it."""
    from k8r_agent.effects.bootfiles import MOUNT, flush
    from k8r_agent.effects.statefiles import ROOT

    for directory in (MOUNT, ROOT):
        with contextlib.suppress(OSError):
            flush(directory)


def _reporter() -> Reporter:
    from k8r_agent.effects.notify import QuietReporter

    return QuietReporter()


def _commands() -> Commands:
    from k8r_agent.effects.commands import commands

    return commands()
