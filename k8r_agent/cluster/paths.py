"""Which files make a node a member of its cluster, and which are made again. Paths of the root.

Facts: kubeadm's implementation details (kubernetes.io, reference/setup-tools/kubeadm) and, for what a control plane
must keep, its manual certificate distribution (setup/production-environment/tools/kubeadm/high-availability).
"""

from __future__ import annotations

from k8r_agent.model.cluster import CONTROL_PLANE
from k8r_agent.ports.cluster import ETC, KUBELET, MANIFESTS, PKI, As

CA = f"{PKI}/ca.crt"
# Whoever has these is the cluster's control plane; they cannot be made a second time.
AUTHORITY = tuple(f"{PKI}/{name}" for name in (
    "ca.crt", "ca.key", "front-proxy-ca.crt", "front-proxy-ca.key", "etcd/ca.crt", "etcd/ca.key", "sa.key", "sa.pub"))

CLIENT = f"{KUBELET}/pki/kubelet-client-current.pem"  # a link: the kubelet refuses to rotate a plain file
CLIENT_KEPT = f"{KUBELET}/pki/kubelet-client-kept.pem"
FLAGS = f"{KUBELET}/kubeadm-flags.env"
# Whoever has these comes back as this Node, without a token and without kubeadm. The credential last: what is there
# only in part does not look like one.
WORKER = (CA, f"{KUBELET}/config.yaml", FLAGS, CLIENT, As.NODE.value)

# Where somebody may put a kubeconfig with which a worker makes itself a new token; the state partition's, so it stays.
TOKENS = "etc/k8r/token.kubeconfig"

STATIC_PODS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
ETCD_POD = f"{MANIFESTS}/etcd.yaml"
# What kubeadm has written before it makes this node's etcd a member; the manifest of its pod is the last.
JOINED = (*AUTHORITY, As.ADMIN.value, As.NODE.value, *(f"{MANIFESTS}/{pod}.yaml" for pod in STATIC_PODS))
_LEAVES = ("apiserver", "apiserver-kubelet-client", "front-proxy-client", "apiserver-etcd-client", "etcd/server",
           "etcd/peer", "etcd/healthcheck-client")
_CONFIGS = ("kubelet", "bootstrap-kubelet", "admin", "super-admin", "controller-manager", "scheduler")
# Everything that kubeadm and a started kubelet write, and nothing that an owner may have put beside it: other static
# pods, patches, an audit policy. The kubelet's own first: without them it does not start again.
WRITTEN = (
    *(f"{ETC}/{name}.conf" for name in _CONFIGS), f"{KUBELET}/config.yaml", FLAGS,
    f"{KUBELET}/instance-config.yaml", f"{KUBELET}/pki", *(f"{MANIFESTS}/{pod}.yaml" for pod in STATIC_PODS),
    *(f"{PKI}/{leaf}.{kind}" for leaf in _LEAVES for kind in ("crt", "key")), *AUTHORITY)

STAMP = f"{ETC}/k8r-member"  # on the slot's own file system, so a fresh copy of the image has none


def kept(role: str) -> tuple[str, ...]:
    return AUTHORITY if role == CONTROL_PLANE else WORKER
