"""What kubeadm is told, in the words of the kubeadm that is there.

    kubeadm         speaks     differences that matter here
    below 1.22      v1beta2    no patches
    1.22 to 1.30    v1beta3    patches
    1.31 and later  v1beta4    arguments are lists; time limits have a section of their own

A configuration is a file of several YAML documents. Each is written as JSON, which is YAML too: there is no value that
could be taken for syntax.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from k8r_agent.cluster.version import Version
from k8r_agent.config.settings import KubernetesSettings
from k8r_agent.errors import ClusterError
from k8r_agent.model.cluster import JoinSecret

Document = dict[str, object]

RUNTIME = "unix:///run/containerd/containerd.sock"
API_PORT = 6443
# kubeadm's own limits on a good medium, in seconds (kubeadm apis/kubeadm/v1beta4 defaults.go).
_LIMITS = {"controlPlaneComponentHealthCheck": 240, "kubeletHealthCheck": 240, "kubernetesAPICall": 60,
           "etcdAPICall": 120, "tlsBootstrap": 300, "discovery": 300, "upgradeManifests": 300}
# Seconds for which the leader among controller managers, or schedulers, is followed after its last word (client-go
# tools/leaderelection). A slow node loses its lead and restarts, again and again; but after a restart of the only one
# nobody leads for just as long, so a lease does not grow without end.
_LEASE, _LONGEST_LEASE = 15, 60
# `leader-elect-lease-duration: 60s` in a map, `- name: …` and `value: 60s` in a list.
_LEASE_SAID = re.compile(r"leader-elect-lease-duration[\"']?(?::|\s+value:)\s*[\"']?(\d+)s")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The node as its cluster will know it. `slow`: by how much kubeadm's time limits are multiplied."""

    name: str
    ip: str
    slow: float = 1.0
    runtime: str = RUNTIME


@dataclass(frozen=True, kw_only=True)
class Founding:
    """What a cluster was made with and cannot change: recorded by its founder, whatever the configuration says
    later. `endpoint` as host:port. `lease` in seconds, of its leaders: the same on each of its control-plane nodes, or
    one would take the lead of another that still has it."""

    endpoint: str
    pod_cidr: str
    service_cidr: str
    lease: int = _LEASE

    def to_json(self) -> str:
        return json.dumps(self.__dict__)


def founding(said: KubernetesSettings, *, endpoint: str, slow: float = 1.0) -> Founding:
    """Of a new cluster. `endpoint` is the node's own when the configuration has none; `slow` as in Machine."""
    return Founding(endpoint=said.endpoint or endpoint, pod_cidr=said.pod_cidr, service_cidr=said.service_cidr,
                    lease=round(min(_LEASE * slow, _LONGEST_LEASE)))


def founded(text: str) -> Founding:
    """As recorded. Raises ClusterError: a guess would be another cluster."""
    try:
        record = json.loads(text)
        return Founding(**{key: str(record[key]) for key in ("endpoint", "pod_cidr", "service_cidr")},
                        lease=int(record.get("lease", _LEASE)))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ClusterError("the record of how this cluster was made is damaged",
                           why=f"{type(error).__name__}: {error}", hint="k8r-recovery(7)") from None


def founded_by(cluster: str) -> Founding:
    """Of a ClusterConfiguration as kubeadm keeps it in the cluster (YAML, any version)."""
    found = {key: match[1] for key in ("controlPlaneEndpoint", "podSubnet", "serviceSubnet")
             if (match := re.search(rf"^\s*{key}:\s*[\"']?([^\s\"']+)", cluster, re.MULTILINE))}
    lease = _LEASE_SAID.search(cluster)
    return Founding(endpoint=found.get("controlPlaneEndpoint", ""), pod_cidr=found.get("podSubnet", ""),
                    service_cidr=found.get("serviceSubnet", ""), lease=int(lease[1]) if lease else _LEASE)


def differences(said: KubernetesSettings, was: Founding) -> tuple[str, ...]:
    """What the configuration says and the cluster cannot follow, one sentence each."""
    return tuple(f"kubernetes.{key} is {getattr(said, key)}, but the cluster was made with {getattr(was, key)}"
                 for key in ("endpoint", "pod_cidr", "service_cidr")
                 if getattr(said, key) not in ("", getattr(was, key)))


def dialect(kubeadm: Version) -> str:
    """Version of the configuration that this kubeadm wants. Raises ClusterError for one that is too old."""
    if kubeadm < Version(major=1, minor=20):
        raise ClusterError(f"kubeadm {kubeadm} is too old", why="this agent knows those from 1.20 on")
    if kubeadm.series in ("1.20", "1.21"):
        return "v1beta2"
    return "v1beta3" if (kubeadm.major, kubeadm.minor) < (1, 31) else "v1beta4"


def initialise(said: KubernetesSettings, *, kubeadm: Version, control_plane: Version, was: Founding,
               machine: Machine) -> str:
    """For `kubeadm init`. `control_plane` is the version that the control plane is to have."""
    words = _Words(kubeadm)
    token: Document = {"ttl": _seconds(said.token_ttl), "description": "made when the cluster was initialised"}
    init: Document = {
        "bootstrapTokens": [token],
        "nodeRegistration": _registration(words, said, machine),
        "localAPIEndpoint": {"advertiseAddress": machine.ip, "bindPort": API_PORT},
        **_patches(words, said), **_limits(words, machine),
    }
    cluster: Document = {
        "kubernetesVersion": control_plane.tag,
        "controlPlaneEndpoint": was.endpoint,
        "networking": {"serviceSubnet": was.service_cidr, **_set("podSubnet", was.pod_cidr)},
        **_api_server(words, said, machine), **_leaders(words, was),
        **_set("imageRepository", said.image_repository),
    }
    kubelet: Document = {"cgroupDriver": "systemd"}
    return _file(words.document("InitConfiguration", init), words.document("ClusterConfiguration", cluster),
                 {"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration", **kubelet})


def join(said: KubernetesSettings, *, kubeadm: Version, secret: JoinSecret, control_plane: bool,
         machine: Machine) -> str:
    """For `kubeadm join`. Raises ClusterError without a CA hash: the node would trust whoever answers."""
    if not secret.ca_hashes:
        raise ClusterError("the node does not join without the hash of the cluster's CA",
                           hint="set kubernetes.ca_cert_hashes")
    words = _Words(kubeadm)
    discovery: Document = {"bootstrapToken": {
        "token": secret.token, "apiServerEndpoint": secret.endpoint, "caCertHashes": list(secret.ca_hashes)}}
    if not words.limits and machine.slow > 1:
        discovery["timeout"] = _seconds(_LIMITS["discovery"] * machine.slow)
    document: Document = {"nodeRegistration": _registration(words, said, machine), "discovery": discovery,
                          **_patches(words, said), **_limits(words, machine)}
    if control_plane:
        document["controlPlane"] = {
            "localAPIEndpoint": {"advertiseAddress": machine.ip, "bindPort": API_PORT},
            "certificateKey": secret.certificate_key}
    return _file(words.document("JoinConfiguration", document))


class _Words:
    """How one version of the configuration says things."""

    def __init__(self, kubeadm: Version) -> None:
        self._version, self._kubeadm = dialect(kubeadm), kubeadm
        self.limits = self._version == "v1beta4"
        self.patches = self._version != "v1beta2"

    def document(self, kind: str, content: Document) -> Document:
        return {"apiVersion": f"kubeadm.k8s.io/{self._version}", "kind": kind, **content}

    def arguments(self, named: Mapping[str, str]) -> object:
        if self.limits:
            return [{"name": name, "value": value} for name, value in named.items()]
        return dict(named)

    def no_patches(self) -> ClusterError:
        return ClusterError(f"kubernetes.patches cannot be used with kubeadm {self._kubeadm}",
                            why="its configuration has patches from 1.22 on", hint="remove the setting")


def _registration(words: _Words, said: KubernetesSettings, machine: Machine) -> Document:
    arguments = {"node-ip": machine.ip, **({"node-labels": ",".join(said.labels)} if said.labels else {})}
    found: Document = {"name": machine.name, "criSocket": machine.runtime,
                       "kubeletExtraArgs": words.arguments(arguments)}
    if said.taints is not None:  # absent: kubeadm's own; empty: none at all
        found["taints"] = [_taint(text) for text in said.taints]
    return found


def _taint(text: str) -> Document:
    left, _, effect = text.rpartition(":")
    key, _, value = left.partition("=")
    return {"key": key, **_set("value", value), "effect": effect}


def _api_server(words: _Words, said: KubernetesSettings, machine: Machine) -> Document:
    found: Document = {"certSANs": list(said.extra_sans)} if said.extra_sans else {}
    if not words.limits and machine.slow > 1:
        found["timeoutForControlPlane"] = _seconds(_LIMITS["controlPlaneComponentHealthCheck"] * machine.slow)
    return {"apiServer": found} if found else {}


def _leaders(words: _Words, was: Founding) -> Document:
    """In the proportions of the defaults: 15, 10 and 2 s."""
    if was.lease == _LEASE:
        return {}
    arguments = words.arguments({"leader-elect-lease-duration": _seconds(was.lease),
                                 "leader-elect-renew-deadline": _seconds(was.lease * 2 / 3),
                                 "leader-elect-retry-period": _seconds(was.lease * 2 / 15)})
    return {name: {"extraArgs": arguments} for name in ("controllerManager", "scheduler")}


def _limits(words: _Words, machine: Machine) -> Document:
    if not words.limits or machine.slow <= 1:
        return {}
    return {"timeouts": {name: _seconds(limit * machine.slow) for name, limit in _LIMITS.items()}}


def _patches(words: _Words, said: KubernetesSettings) -> Document:
    if said.patches and not words.patches:
        raise words.no_patches()
    return {"patches": {"directory": said.patches}} if said.patches else {}


def _set(key: str, value: str) -> Document:
    return {key: value} if value else {}


def _seconds(value: float) -> str:
    """A duration of Go."""
    return f"{round(value)}s"


def _file(*documents: Document) -> str:
    return "".join(f"---\n{json.dumps(document, indent=2)}\n" for document in documents)
