"""What kubeadm's last phase of a control plane's join does to its Node, for a join that was interrupted before it: the
phase alone would have to find the cluster with its token, which has ended by then.

Source: kubeadm app/phases/markcontrolplane; the names changed with 1.20 (label) and 1.24 (taint).
"""

from __future__ import annotations

from k8r_agent.cluster.version import Version

_ROLE = "node-role.kubernetes.io"
_NO_BALANCER = "node.kubernetes.io/exclude-from-external-load-balancers"


def commands(node: str, kubernetes: Version, taints: tuple[str, ...] | None) -> tuple[list[str], ...]:
    """Arguments of kubectl. `taints` as in the settings: None for kubeadm's own."""
    old = kubernetes < Version(major=1, minor=24)
    labels = [f"{_ROLE}/control-plane=", f"{_NO_BALANCER}=", *([f"{_ROLE}/master="] if old else [])]
    wanted = (f"{_ROLE}/{'master' if old else 'control-plane'}:NoSchedule",) if taints is None else taints
    found = [["label", "--overwrite", "node", node, *labels]]
    return (*found, ["taint", "--overwrite", "node", node, *wanted]) if wanted else tuple(found)
