"""The validated settings: the last of the three stages fragments → merged → settings."""

from __future__ import annotations

from dataclasses import dataclass, field

GIB = 1 << 30


@dataclass(frozen=True, kw_only=True)
class NodeSettings:
    hostname: str = ""  # "": keep what the system has
    role: str = "auto"  # "auto", "worker" or "control-plane" ("master" is accepted and means the latter)


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
    grace: float = 300.0  # seconds in the wrong slot before the node leaves it
    when_working_dead: str = "offer"  # or "reinstall"


@dataclass(frozen=True, kw_only=True)
class KubernetesSettings:
    """`join_token` and `certificate_key` are secrets: whoever used them blanks them on the boot partition."""

    initialise: bool = False  # this node may make a new cluster
    endpoint: str = ""  # host:port of the control plane; an IPv6 address in brackets
    join_token: str = ""
    ca_cert_hashes: tuple[str, ...] = ()  # "sha256:" and 64 hexadecimal digits each
    certificate_key: str = ""  # 64 hexadecimal digits; a control-plane node needs it to join
    token_ttl: float = 24 * 3600.0  # seconds; never without an end
    pod_cidr: str = "172.30.0.0/16"
    service_cidr: str = "10.96.0.0/12"
    cni: str = "calico"  # or "flannel" or "none"
    cni_version: str = ""  # "": whichever the image holds
    cni_manifest: str = ""  # absolute path or URL, instead of the file in the image
    cni_sha256: str = ""  # of cni_manifest, in hexadecimal; a URL needs it
    image_repository: str = ""  # "": kubeadm's own
    insecure_registries: tuple[str, ...] = ()  # host or host:port
    extra_sans: tuple[str, ...] = ()
    patches: str = ""  # directory of kubeadm patches
    labels: tuple[str, ...] = ()  # key=value
    taints: tuple[str, ...] | None = None  # key=value:Effect; None: kubeadm's own, (): none at all
    node_ip: str = ""
    drain_timeout: float = 600.0  # seconds
    when_drain_blocked: str = "abort"  # or "delete": pods that a disruption budget protects


SECRETS = ("kubernetes.join_token", "kubernetes.certificate_key")  # never shown, logged or quoted


@dataclass(frozen=True, kw_only=True)
class Settings:
    node: NodeSettings = field(default_factory=NodeSettings)
    access: AccessSettings = field(default_factory=AccessSettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    disk: DiskSettings = field(default_factory=DiskSettings)
    update: UpdateSettings = field(default_factory=UpdateSettings)
    boot: BootSettings = field(default_factory=BootSettings)
    kubernetes: KubernetesSettings = field(default_factory=KubernetesSettings)
