"""Virtual nodes that are to be members of a cluster."""

from __future__ import annotations

from collections.abc import Mapping

from tests.lab.node import Node
from tests.lab.site import GIB, Lab

DISK_SIZE = 8 * GIB
DISK = {"image_size": '"2304MiB"', "state_size": '"640MiB"'}
NETWORKS = {"cni": '"none"', "pod_cidr": '"10.244.0.0/16"'}  # the image holds a bridge for pods
FIRST = {"initialise": "true", "taints": "[]"}  # the first node of a new cluster, which takes pods too
ADMIN = "kubectl --kubeconfig /etc/kubernetes/admin.conf"
# Seconds; slow is not wrong. ENTER is for kubeadm; a reinstall of a control plane may hold an upgrade and a new try.
FIRST_BOOT, ENTER, UPDATE, REINSTALL = 1800.0, 1800.0, 1800.0, 4800.0


def flashed(lab: Lab, name: str, kubernetes: Mapping[str, str]) -> Node:
    """`kubernetes`: what its k8r.toml says besides the networks. A control plane gets two processors, which is what
    kubeadm asks of one."""
    more = {"disk": DISK, "kubernetes": {**NETWORKS, **kubernetes}}
    disk = lab.flash(name, size=DISK_SIZE, hostname=name, more=more)
    return lab.node(name, disk, memory=2048, cpus=2 if "initialise" in kubernetes else 1, tb_size=1024)
