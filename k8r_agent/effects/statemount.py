"""Mounting the state partition while the system runs: hidden first, at /var/lib/k8r when its content is complete."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from k8r_agent.effects.bootfacts import Kernel
from k8r_agent.effects.mkfs import Filesystems
from k8r_agent.effects.statefiles import ROOT, VOLATILE, StateDirectory, is_mount
from k8r_agent.errors import CommandFailed, StateError
from k8r_agent.model.layout import Partition
from k8r_agent.ports.commands import Commands

HIDDEN = Path("/run/k8r/state")
SYSTEMD = Path("/run/systemd/system")  # exists while systemd is PID 1: sd_booted(3)
OPTIONS = "rw,noatime,nodev,nosuid,errors=remount-ro"  # exec: /etc/k8r/hooks lies there


class StateMounts:
    """The protocol Mounts of effects/statepartition.py."""

    def __init__(self, commands: Commands, *, kernel: Kernel | None = None, root: Path = ROOT, hidden: Path = HIDDEN,
                 volatile: Path = VOLATILE, systemd: Path = SYSTEMD) -> None:
        self._commands, self._kernel = commands, kernel or Kernel()
        self._root, self._hidden, self._systemd = root, hidden, systemd
        self._ram = StateDirectory(volatile / "none", volatile=volatile, mounted=lambda path: False)

    def visible(self) -> bool:
        """Not by mountinfo: in the runner's mount namespace the directory is a bind mount of itself."""
        return is_mount(self._root)

    def stage(self, partition: Partition) -> StateDirectory:
        device = self._device(partition)
        there = self._kernel.mounted_at(str(self._hidden))
        if there is None:
            if why := Filesystems(self._commands).mend(device):
                raise StateError(f"{device} is damaged", why=why)
            self._hidden.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._mount(device, self._hidden)
        elif there.device != self._kernel.number_of(device.name):
            raise StateError(f"something else is mounted at {self._hidden}", why=f"device {there.device}")
        return StateDirectory(self._hidden, mounted=lambda path: True)

    def unstage(self) -> None:
        if self._kernel.mounted_at(str(self._hidden)) is not None:
            self._commands.run(["umount", os.fspath(self._hidden)])
        with contextlib.suppress(OSError):
            self._hidden.rmdir()

    def publish(self, partition: Partition) -> None:
        """The same file system a second time (`mount --move` is refused below a shared mount, and /run is one), by
        systemd, so that the whole system sees it and not only the runner's mount namespace."""
        device = self._device(partition)
        os.chmod(self._hidden, 0o700)  # mkfs makes the root directory 0755
        if not self.visible():
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._systemd.is_dir():
                self._commands.run(["systemd-mount", "--quiet", "--fsck=no", "--type=ext4", f"--options={OPTIONS}",
                                    os.fspath(device), os.fspath(self._root)], timeout=120)
            else:
                self._mount(device, self._root)
        if not self.visible():
            raise StateError(f"{device} was mounted, but is not seen at {self._root}",
                             why="the mount did not reach this mount namespace", hint="reboot")

    def volatile(self) -> StateDirectory:
        return self._ram

    def _mount(self, device: Path, where: Path) -> None:
        try:
            self._commands.run(["mount", "-t", "ext4", "-o", OPTIONS, os.fspath(device), os.fspath(where)])
        except CommandFailed as error:
            raise StateError(f"cannot mount {device} at {where}", why=error.why or str(error)) from error

    @staticmethod
    def _device(partition: Partition) -> Path:
        if partition.device is None:
            raise StateError("the kernel does not use the state partition yet", hint="reboot")
        return partition.device
