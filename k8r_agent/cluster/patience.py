"""How long Kubernetes may take on a slow medium or a slow processor.

etcd wants the 99th percentile of its fsyncs below 10 ms (etcd.io, tuning); an SD card takes several times that, and
every write of the API server waits for one. A control plane's start keeps the processor of a small board busy for
minutes; what that is good for is told by the time that it takes to hash. kubeadm's own limits are made for good ones.
"""

from __future__ import annotations

from k8r_agent.errors import StateError
from k8r_agent.ports.cluster import Cluster

GOOD = 0.010  # seconds of one fsync
GOOD_PROCESSOR = 0.050  # seconds of a SHA-256 over 8 MiB
SLOWEST = 6.0

INIT, JOIN, CERTS, NODE, API, KUBELET = 900.0, 900.0, 300.0, 600.0, 60.0, 120.0  # seconds on good ones


def of(cluster: Cluster) -> float:
    """factor() of this node, measured anew; of a medium that cannot be measured the worst is assumed."""
    try:
        return factor(cluster.fsync_seconds(), cluster.hash_seconds())
    except StateError:
        return SLOWEST


def factor(fsync_seconds: float, hash_seconds: float) -> float:
    """By how much to multiply a limit: 1 on a good medium and processor, 6 at most."""
    return min(SLOWEST, max(1.0, fsync_seconds / GOOD, hash_seconds / GOOD_PROCESSOR))
