"""Kubernetes as the running root has it, and the cluster that this node belongs to or may enter.

Small observations and effects only; what they mean is decided in steps/ and cluster/. Paths are relative to the root
(`etc/kubernetes/kubelet.conf`). What must survive a reinstall is not here but in StateFiles (store/cluster.py).
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from k8r_agent.ports.commands import Result

ETC = "etc/kubernetes"
KUBELET = "var/lib/kubelet"
PKI = f"{ETC}/pki"
MANIFESTS = f"{ETC}/manifests"
ETCD = "var/lib/etcd"


class As(str, enum.Enum):
    """Whose credential: the value is the kubeconfig's path. NODE may read and change what is this node's own."""

    NODE = f"{ETC}/kubelet.conf"
    ADMIN = f"{ETC}/admin.conf"


@dataclass(frozen=True, kw_only=True)
class Tools:
    """Versions as `1.31.4`; "" for what is not on this root or does not say."""

    kubeadm: str = ""
    kubelet: str = ""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What an API server said to somebody without a credential. `ca` is the cluster's CA as it publishes it (PEM, b""
    when it does not say), `local` when this node itself answered, `foreign` when the answer was not Kubernetes' (an
    overloaded API server may answer like that too). `why` is the reason for not `reachable`, or for `foreign`."""

    reachable: bool
    local: bool = False
    foreign: bool = False
    ca: bytes = b""
    why: str = ""


class Cluster(Protocol):
    """Every call may raise CommandFailed (a program is missing or took too long) or StateError (a file)."""

    def present(self) -> bool:
        """kubeadm and kubelet are on this root. Costs nothing."""

    def tools(self) -> Tools: ...

    # files of the running root

    def read(self, path: str) -> bytes | None:
        """None when there is no such file; a directory is none. Links are followed: the kubelet's current certificate
        is one."""

    def names(self, directory: str) -> tuple[str, ...]:
        """Entries, sorted; () when there is no such directory."""

    def place(self, path: str, data: bytes, *, mode: int = 0o600) -> None:
        """Durable and all at once."""

    def link(self, path: str, target: str) -> None:
        """A symbolic link at `path` to the file `target` (both of the root), durable and all at once."""

    def remove(self, path: str) -> None:
        """A file, or a directory with all that is in it; nothing when absent. Raises Protected for anything outside
        etc/kubernetes and var/lib/kubelet, and for what a mount point is or holds."""

    def sync(self) -> None:
        """What kubeadm and the kubelet wrote so far is durable on return: they themselves leave that to the kernel."""

    # programs

    def kubeadm(self, args: Sequence[str], *, config: str = "", timeout: float, program: str = "kubeadm") -> Result:
        """In a unit of its own, outside of the agent's sandbox; a run that an earlier agent started is waited for
        first. `config` goes into a file that only root can read, and `--config` is added. Any exit code is returned
        (kubeadm's say nothing: read stderr). `timeout` in seconds."""

    def kubectl(self, args: Sequence[str], *, who: As = As.NODE, stdin: bytes = b"", timeout: float = 60.0) -> Result:
        """Any exit code is returned. A credential that is not there is exit code 1, as kubectl says it."""

    def etcdctl(self, args: Sequence[str], *, timeout: float = 60.0) -> Result:
        """Against this node's own member, with its health check certificate. Any exit code is returned."""

    # kubelet and etcd

    def preload_images(self) -> None:
        """Give the container runtime what came with the golden image, as far as it lacks it. That some cannot be given
        is for kubeadm to say: a registry may have them."""

    def start_kubelet(self, *, timeout: float) -> None:
        """Raises BusError when it does not stay up, or does not call itself healthy within `timeout` seconds."""

    def wait_for_kubeadm(self) -> None:
        """Until one has ended that an earlier agent started, and that goes on without it."""

    def stop_kubelet(self) -> None:
        """After wait_for_kubeadm()."""

    def kubelet_running(self) -> bool:
        """It runs and calls itself healthy."""

    def etcd_running(self) -> bool:
        """Somebody listens where this node's member does: also one that is not well. Its data must be left alone."""

    def keep_etcd(self) -> None:
        """Bind the kept directory over var/lib/etcd. Raises NoState unless what is there afterwards is the state
        partition's: an etcd on anything else would start empty, or be lost."""

    def etcd_kept(self) -> bool:
        """The state partition holds a member's data."""

    # around it

    def probe(self, endpoint: str) -> Probe:
        """`endpoint` as host:port."""

    def fetch(self, url: str, limit: int) -> bytes:
        """A small file over HTTP(S), at most `limit` bytes. Raises FetchError."""

    def name(self) -> str:
        """The host name, in lower case as a Node has it."""

    def clock(self) -> float:
        """What the system's clock says, right or wrong (seconds since the epoch): kubeadm goes by it."""

    def address(self) -> str:
        """This node's own address on the way out (default route); "" when there is none."""

    def fsync_seconds(self) -> float:
        """How long the state partition takes to make one small write durable (median of a few)."""

    def hash_seconds(self) -> float:
        """How long the processor takes for a SHA-256 over 8 MiB (median of a few)."""


class NoKubernetes:
    """The Cluster of a root without Kubernetes: nothing is there, and nobody asks for more."""

    def present(self) -> bool:
        return False
