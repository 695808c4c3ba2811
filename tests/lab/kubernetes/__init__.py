"""A real Kubernetes for the lab, built from the source package of Debian 12, and where it is kept.

    python3 -m tests.lab.kubernetes

Kept outside the checkout, in $XDG_CACHE_HOME/k8r-lab (or ~/.cache/k8r-lab): `packages_of(version)` is a directory of
.deb packages as the Kubernetes project's repository would give them, `images_of(version)` the container images of its
control plane, `tool(name)` a program to run on the host (kubeadm, kubectl, kube-apiserver, etcd, etcdctl).
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

VERSION = "1.20.2"
# The same source under the next minor's number: what an upgrade needs of a second version is its number.
STAND_IN = "1.21.0+standin"
VERSIONS = (VERSION, STAND_IN)
COMPILED, PACKED = ("fetch.py", "compile.py"), ("debs.py", "archives.py", "crictl", "coredns-standin.c")
HERE = Path(__file__).resolve().parent


def home() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "k8r-lab"


def _key(*names: str) -> str:
    digest = hashlib.sha256(" ".join(VERSIONS).encode())
    for name in names:
        digest.update((HERE / name).read_bytes())
    return digest.hexdigest()[:12]


def programs() -> Path:
    """What the compiler made, by version; and `host/`, the files of Debian packages. Kept per recipe."""
    return home() / f"programs-{_key(*COMPILED)}"


def packed() -> Path:
    """Packages and container images, by version. Kept per recipe."""
    return home() / f"packed-{_key(*COMPILED, *PACKED)}"


def packages_of(version: str = VERSION) -> Path:
    return packed() / version / "packages"


def images_of(version: str = VERSION) -> Path:
    return packed() / version / "images"


def tool(name: str, version: str = VERSION) -> Path:
    """Of Kubernetes in `version`, else of Debian: etcd, etcdctl."""
    made = programs() / version / name
    return made if made.exists() else programs() / "host/usr/bin" / name


def is_packed() -> bool:
    return (packed() / ".done").exists()
