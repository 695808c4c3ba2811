"""How long Kubernetes may take on a slow medium.

etcd wants the 99th percentile of its fsyncs below 10 ms (etcd.io, tuning); an SD card takes several times that, and
every write of the API server waits for one. kubeadm's own limits are made for the former.
"""

from __future__ import annotations

GOOD = 0.010  # seconds of one fsync
SLOWEST = 6.0

INIT, JOIN, CERTS, NODE, API = 900.0, 900.0, 300.0, 600.0, 60.0  # seconds on a good medium


def factor(fsync_seconds: float) -> float:
    """By how much to multiply a limit: 1 on a good medium, 6 at most."""
    return min(SLOWEST, max(1.0, fsync_seconds / GOOD))
