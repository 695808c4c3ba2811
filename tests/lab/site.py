"""The lab as one thing: a network, a key, a server with the releases, and nodes flashed from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.lab.accel import TB_SIZE
from tests.lab.agent import Agent
from tests.lab.disks import DiskImage
from tests.lab.images import LOADERS, RELEASES, bundle_of, disk_of
from tests.lab.keys import ssh_key
from tests.lab.network import Network
from tests.lab.node import Drive, Node
from tests.lab.snapshots import Snapshot, Snapshots
from tests.lab.web import Web

GIB, MIB = 1 << 30, 1 << 20
DISK_SIZE = 5 * GIB
IMAGE_SIZE, STATE_SIZE = 1536 * MIB, 256 * MIB
HOSTNAME = "node-1"
__all__ = ["DISK_SIZE", "GIB", "HOSTNAME", "IMAGE_SIZE", "LOADERS", "MIB", "RELEASES", "STATE_SIZE", "Lab"]


class Lab:
    """`build` holds what `make images` made. Everything else is below `workdir`."""

    def __init__(self, build: Path, workdir: Path, *, echo: Callable[[str, str], None] | None = None) -> None:
        self.build, self.workdir, self._echo = build, workdir, echo
        self.network = Network(workdir / "network")
        self.key = build / "keys" / "lab"
        self.nodes: list[Node] = []

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

    def config(self, *, hostname: str = HOSTNAME, more: Mapping[str, Mapping[str, str]] | None = None) -> bytes:
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
              table: str = "gpt", hostname: str = HOSTNAME,
              more: Mapping[str, Mapping[str, str]] | None = None) -> Path:
        """A disk as somebody would flash it and then edit k8r.toml on it."""
        disk = DiskImage(disk_of(self.build, release, loader, table)).copy(self.workdir / name / "disk.img", size=size)
        disk.fat_write("k8r.toml", self.config(hostname=hostname, more=more))
        return disk.path

    def node(self, name: str, disk: Path, *, more: Sequence[Drive] = (), memory: int = 1024, cpus: int = 1,
             log: Path | None = None, tb_size: int = TB_SIZE) -> Node:
        echo = self._echo
        node = Node(name, disk=disk, network=self.network, key=self.key, workdir=self.workdir / name, memory=memory,
                    cpus=cpus, more=more, log=log, tb_size=tb_size,
                    echo=(lambda line: echo(name, line)) if echo else None)
        self.nodes.append(node)
        return node

    def agent(self, node: Node) -> Agent:
        return Agent(node)

    # snapshots

    @cached_property
    def _snapshots(self) -> Snapshots:
        manifests = [(bundle_of(self.build, release) / "manifest.toml").read_bytes() for release in RELEASES]
        return Snapshots(self.build / "snapshots", *manifests, self.config(), str(DISK_SIZE).encode())

    def kept(self, label: str, make: Callable[[], tuple[Node, dict[str, Any]]]) -> Snapshot:
        """The snapshot of that label. See Snapshots.get()."""
        return self._snapshots.get(label, make)

    def restore(self, snapshot: Snapshot, name: str, *, more: Mapping[str, Mapping[str, str]] | None = None,
                **options: Any) -> Node:
        """A new node that stands where the snapshot was taken. `more` goes into its k8r.toml."""
        disk = DiskImage(snapshot.restore_to(self.workdir / name))
        if more:
            disk.fat_write("k8r.toml", self.config(hostname=HOSTNAME, more=more))
        return self.node(name, disk.path, **options)
