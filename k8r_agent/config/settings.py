"""The validated settings: the last of the three stages fragments → merged → settings."""

from __future__ import annotations

from dataclasses import dataclass, field

GIB = 1 << 30


@dataclass(frozen=True, kw_only=True)
class NodeSettings:
    hostname: str = ""  # "": keep what the system has
    role: str = "worker"  # "worker" or "control-plane" ("master" is accepted and means the latter)


@dataclass(frozen=True, kw_only=True)
class AccessSettings:
    user: str = "root"
    authorized_keys: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """Empty address: DHCP on every Ethernet interface."""

    interface: str = "e*"
    address: str = ""
    gateway: str = ""
    dns: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DiskSettings:
    image_size: int = 4 * GIB  # bytes the image slot is grown to on first boot
    state_size: int = 2 * GIB
    foreign_state: str = "refuse"  # or "adopt": a state partition of another life of this disk


@dataclass(frozen=True, kw_only=True)
class UpdateSettings:
    source: str = ""  # directory or HTTP(S) prefix of the bundle
    allow_unsigned: bool = False
    allow_legacy: bool = False  # image.img.xz + boot.tar.xz without a manifest
    auto: bool = False  # the timer's check also submits an update
    ca_file: str = ""


@dataclass(frozen=True, kw_only=True)
class BootSettings:
    tries: int = 3  # persistent tries of the confirmed working slot
    deadline: float = 600.0  # seconds for boot-complete.target
    when_working_dead: str = "offer"  # or "reinstall"


@dataclass(frozen=True, kw_only=True)
class Settings:
    node: NodeSettings = field(default_factory=NodeSettings)
    access: AccessSettings = field(default_factory=AccessSettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    disk: DiskSettings = field(default_factory=DiskSettings)
    update: UpdateSettings = field(default_factory=UpdateSettings)
    boot: BootSettings = field(default_factory=BootSettings)
