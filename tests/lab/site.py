"""The lab as one thing: a network, a key, a server with the releases, and nodes flashed from them."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.lab.agent import Agent
from tests.lab.disks import DiskImage
from tests.lab.images import LOADERS, RELEASES, bundle_of, disk_of
from tests.lab.keys import ssh_key
from tests.lab.network import Network
from tests.lab.node import Drive, Node
from tests.lab.web import Web

GIB, MIB = 1 << 30, 1 << 20
DISK_SIZE = 5 * GIB
IMAGE_SIZE, STATE_SIZE = 1536 * MIB, 128 * MIB
__all__ = ["DISK_SIZE", "GIB", "IMAGE_SIZE", "LOADERS", "MIB", "RELEASES", "STATE_SIZE", "Lab", "Snapshot"]


@dataclass(frozen=True)
class Snapshot:
    """A node that was switched off: its disk and its firmware's variables."""

    disk: Path
    variables: Path


class Lab:
    """`build` holds what `make images` made. Everything else is below `workdir`."""

    def __init__(self, build: Path, workdir: Path, *, echo: Callable[[str, str], None] | None = None) -> None:
        self.build, self.workdir, self._echo = build, workdir, echo
        self.network = Network(workdir / "network")
        self.key = workdir / "key"
        self.nodes: list[Node] = []
        self._names = itertools.count(1)
        self._kept: dict[str, Snapshot] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def start(self) -> Lab:
        self.workdir.mkdir(parents=True, exist_ok=True)
        self.public_key = ssh_key(self.key)
        self.network.start()
        self.web = Web(self.network, self.build)
        return self

    def stop(self) -> None:
        for node in self.nodes:
            node.cut()
        if hasattr(self, "web"):
            self.web.stop()
        self.network.stop()

    def url(self, release: int) -> str:
        return self.web.url(bundle_of(self.build, release))

    def config(self, *, hostname: str, more: Mapping[str, Mapping[str, str]] | None = None) -> bytes:
        """k8r.toml as a person would write it after flashing. `more`: section → key → TOML value."""
        sections: dict[str, dict[str, str]] = {
            "node": {"hostname": f'"{hostname}"'},
            "access": {"authorized_keys": f'["{self.public_key}"]'},
            "disk": {"image_size": f'"{IMAGE_SIZE // MIB}MiB"', "state_size": f'"{STATE_SIZE // MIB}MiB"'},
        }
        for section, values in (more or {}).items():
            sections.setdefault(section, {}).update(values)
        return "".join(f"[{section}]\n" + "".join(f"{key} = {value}\n" for key, value in values.items())
                       for section, values in sections.items()).encode()

    def flash(self, name: str, *, release: int = 1, loader: str = "systemd-boot", size: int = DISK_SIZE,
              table: str = "gpt", more: Mapping[str, Mapping[str, str]] | None = None) -> Path:
        """A disk as somebody would flash it and then edit k8r.toml on it."""
        disk = DiskImage(disk_of(self.build, release, loader, table)).copy(self.workdir / name / "disk.img", size=size)
        disk.fat_write("k8r.toml", self.config(hostname=name, more=more))
        return disk.path

    def node(self, name: str, disk: Path, *, more: Sequence[Drive] = (), memory: int = 1024, cpus: int = 1,
             log: Path | None = None) -> Node:
        echo = self._echo
        node = Node(name, disk=disk, network=self.network, key=self.key, workdir=self.workdir / name, memory=memory,
                    cpus=cpus, more=more, log=log, echo=(lambda line: echo(name, line)) if echo else None)
        self.nodes.append(node)
        return node

    def agent(self, node: Node) -> Agent:
        return Agent(node)

    # snapshots

    def keep(self, label: str, node: Node) -> Snapshot:
        """Keep a node that is off, to start others from where it stands."""
        assert node.qemu is None
        snapshot = self.restore_to(Snapshot(node.disk.path, node.variables), self.workdir / "kept" / label)
        self._kept[label] = snapshot
        return snapshot

    def kept(self, label: str, make: Callable[[], Node]) -> Snapshot:
        """The snapshot of that label; whoever asks first makes it, the others wait."""
        with self._lock:
            lock = self._locks.setdefault(label, threading.Lock())
        with lock:
            return self._kept.get(label) or self.keep(label, make())

    def restore(self, snapshot: Snapshot, name: str, **options: object) -> Node:
        """A new node that stands where the snapshot was taken."""
        copy = self.restore_to(snapshot, self.workdir / name)
        return self.node(name, copy.disk, **options)  # type: ignore[arg-type]

    @staticmethod
    def restore_to(snapshot: Snapshot, directory: Path) -> Snapshot:
        directory.mkdir(parents=True, exist_ok=True)
        disk = DiskImage(snapshot.disk).copy(directory / "disk.img").path
        variables = directory / "OVMF_VARS.fd"
        variables.write_bytes(snapshot.variables.read_bytes())
        return Snapshot(disk, variables)
