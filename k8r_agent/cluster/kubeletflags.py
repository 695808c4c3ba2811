"""The kubelet's flags, as kubeadm wrote them down when the node joined, for the kubelet that is on the root now.

A worker keeps its file for years, and a kubelet does not start with a flag that it does not know. kubeadm takes the
same ones out when it upgrades a node in place.
"""

from __future__ import annotations

import re

from k8r_agent.cluster.version import Version

# The first release without it, and why it is not missed with containerd (kubernetes CHANGELOG-1.24, -1.27, -1.35).
_GONE = {
    "network-plugin": Version(major=1, minor=24),  # dockershim's
    "container-runtime": Version(major=1, minor=27),  # "remote" is the only kind that is left
    "pod-infra-container-image": Version(major=1, minor=35),  # containerd's sandbox_image
}


def for_kubelet(data: bytes, kubelet: Version | None) -> bytes:
    """kubeadm-flags.env without what `kubelet` does not know any more; all of it where its version is not known."""
    for flag, gone in _GONE.items():
        if kubelet is not None and (kubelet.major, kubelet.minor) >= (gone.major, gone.minor):
            data = re.sub(rb" ?--" + flag.encode() + rb"=[^\s\"']*", b"", data)
    return data
