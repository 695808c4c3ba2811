"""Which manifest makes the network of the pods, and what has to be changed in it.

calico finds the cluster's pod network by itself. flannel's manifest has a network of its own written into it
(`net-conf.json`), which must be the cluster's.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass

from k8r_agent.config.settings import KubernetesSettings
from k8r_agent.errors import ClusterError, Refused

DIRECTORY = "/usr/share/k8r/cni"  # in the image
_FLANNEL = re.compile(r'("Network":\s*)"[^"\n]*"')


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Where it is: a path in the image, or a URL. `sha256` is "" where a path needs none."""

    source: str
    sha256: str = ""

    @property
    def remote(self) -> bool:
        return not self.source.startswith("/")


def manifest(said: KubernetesSettings) -> Manifest | None:
    """None: nothing is applied, somebody else makes the network."""
    if said.cni_manifest:
        return Manifest(source=said.cni_manifest, sha256=said.cni_sha256)
    if said.cni == "none":
        return None
    version = f"-{said.cni_version}" if said.cni_version else ""
    return Manifest(source=f"{DIRECTORY}/{said.cni}{version}.yaml")


def missing(found: Manifest) -> Refused:
    """The image does not have it: no other one is taken, and nothing is fetched that nobody named."""
    return Refused("the network of the pods cannot be made", why=f"there is no {found.source}",
                   hint="build the image with `k8r-image build --cni FILE`, or set kubernetes.cni_manifest to a URL "
                        "with kubernetes.cni_sha256, or kubernetes.cni to none")


def prepared(found: Manifest, data: bytes, *, said: KubernetesSettings, pod_cidr: str) -> bytes:
    """What to give to `kubectl apply -f -`. Raises ClusterError when it is not what was named."""
    digest = hashlib.sha256(data).hexdigest()
    if found.sha256 and digest != found.sha256:
        raise ClusterError(f"{found.source} is not the manifest that was named",
                           why=f"its SHA-256 is {digest}, kubernetes.cni_sha256 is {found.sha256}",
                           hint="look at what is there now before you change kubernetes.cni_sha256")
    if b"kind:" not in data:
        raise ClusterError(f"{found.source} is not a manifest", why="it holds no Kubernetes object")
    if said.cni == "flannel" and pod_cidr:
        return _flannel(found, data, pod_cidr.split(",")[0])
    return data


def _flannel(found: Manifest, data: bytes, network: str) -> bytes:
    text, number = _FLANNEL.subn(lambda match: match[1] + json.dumps(network), data.decode("utf-8", "replace"))
    if number != 1:
        raise ClusterError(f"{found.source} is not flannel's manifest",
                           why='it should have one "Network" in net-conf.json, which must be the pods\' network',
                           hint="set kubernetes.cni to the name of the network that it is for")
    return text.encode()
