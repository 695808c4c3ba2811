"""What a node remembers of its cluster, across reinstalls."""

from __future__ import annotations

import enum
from dataclasses import dataclass

CONTROL_PLANE, WORKER = "control-plane", "worker"


class Phase(str, enum.Enum):
    ENTERING = "entering"  # kubeadm was begun and has not been seen to succeed
    MEMBER = "member"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, kw_only=True)
class Membership:
    """`role` by `rule` for `reason`. `founder`: this node initialised the cluster. `ca_hash` as in kubeadm's
    `caCertHashes`. `kubernetes`: version that the control plane of this node, or its kubelet, was last entered with.
    `configuration`: what its cluster was made with, as cluster/kubeadmconfig.py records it ("" on a worker).
    `network`: the CNI manifest that its founder applied. `since`: seconds since the epoch."""

    phase: Phase
    role: str
    rule: str = ""
    reason: str = ""
    node_name: str = ""
    node_ip: str = ""
    endpoint: str = ""
    ca_hash: str = ""
    kubernetes: str = ""
    configuration: str = ""
    founder: bool = False
    network: str = ""
    since: float = 0.0

    @property
    def control_plane(self) -> bool:
        return self.role == CONTROL_PLANE


@dataclass(frozen=True, kw_only=True)
class JoinSecret:
    """What lets this node join once. `token` is a bootstrap token; `certificate_key` decrypts the control plane's
    certificates (a joining control-plane node needs it). `role` in which whoever handed it over wants the node, "" as
    the configuration says."""

    endpoint: str = ""
    token: str = ""
    ca_hashes: tuple[str, ...] = ()
    certificate_key: str = ""
    role: str = ""
