"""Kubernetes inside a golden image: its packages, a container runtime, and what both need of the system."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from k8r_agent.build import chroot, tree
from k8r_agent.build.flatrepo import FlatRepository
from k8r_agent.build.options import KubernetesOptions
from k8r_agent.cluster.cni import DIRECTORY
from k8r_agent.effects.commands import FullCommands
from k8r_agent.errors import BuildError, UsageError

TOOLS = ("kubeadm", "kubelet", "kubectl")
# The runtime; what the kubelet and kubeadm look for; etcdctl for snapshots.
PACKAGES = ("containerd", "conntrack", "ebtables", "ethtool", "iptables", "iproute2", "mount", "socat", "etcd-client")
_VERSION = re.compile(r"\d+\.\d+\.\d+([~+-][A-Za-z0-9.+~-]+)?")
_MANIFEST = re.compile(r"(calico|flannel)(-\d+\.\d+\.\d+)?\.yaml")
_ARMOUR = "-----BEGIN PGP PUBLIC KEY BLOCK-----"

# CNI programs are where the kubernetes-cni package and the manifests of pod networks put them, not where Debian does.
CONTAINERD = """\
version = 2

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = true
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "/etc/containerd/certs.d"
"""
FILES = {
    "usr/lib/modules-load.d/k8r-kubernetes.conf": "overlay\nbr_netfilter\n",
    "usr/lib/sysctl.d/90-k8r-kubernetes.conf": (
        "net.ipv4.ip_forward = 1\nnet.bridge.bridge-nf-call-iptables = 1\nnet.bridge.bridge-nf-call-ip6tables = 1\n"),
    # The routes of pods are not networkd's: it must not drop them when it restarts.
    "usr/lib/systemd/networkd.conf.d/k8r-kubernetes.conf": (
        "[Network]\nManageForeignRoutes=no\nManageForeignRoutingPolicyRules=no\n"),
    # A pod network gives its own addresses to its tunnels; udev's would come later and cut every node off.
    "usr/lib/systemd/network/50-k8r-tunnels.link": (
        "[Match]\nOriginalName=flannel* vxlan.calico cali* cilium*\n\n[Link]\nMACAddressPolicy=none\n"),
}
_LINKS = {
    "etc/systemd/system/multi-user.target.wants/containerd.service": "/lib/systemd/system/containerd.service",
    "etc/systemd/system/multi-user.target.wants/kubelet.service": "/lib/systemd/system/kubelet.service",
    "etc/systemd/system/swap.target": "/dev/null",  # the kubelet refuses to run beside swap
}


def options(*, version: str, packages: str, key: Path | None, preload: Path | None,
            cni: tuple[Path, ...] = ()) -> KubernetesOptions | None:
    """None: an image without Kubernetes. Raises UsageError for what does not go together."""
    if not version:
        for given, name in ((packages, "--kubernetes-packages"), (key, "--kubernetes-key"), (preload, "--preload"),
                            (cni, "--cni")):
            if given:
                raise UsageError(f"{name} without --kubernetes", hint="give the version: --kubernetes 1.31.4")
        return None
    if not _VERSION.fullmatch(version):
        raise UsageError(f"--kubernetes {version} is not a version such as 1.31.4")
    if not packages:
        raise UsageError("--kubernetes without --kubernetes-packages",
                         hint="name a directory of packages, or the apt repository of that minor version")
    if "://" in packages and key is None:
        raise UsageError("--kubernetes-packages URL without --kubernetes-key",
                         why="packages of a repository are installed only when its signature is good",
                         hint="give the repository's Release.key")
    if "://" not in packages and not Path(packages).is_dir():
        raise UsageError(f"--kubernetes-packages {packages}: neither a URL nor a directory")
    for manifest in cni:
        if not _MANIFEST.fullmatch(manifest.name):
            raise UsageError(f"--cni {manifest}: nodes would not look for a manifest of that name",
                             hint="call it calico.yaml or flannel.yaml, or with its version calico-3.25.1.yaml")
    return KubernetesOptions(version=version, packages=packages, key=key, preload=preload, cni=cni)


class Packages:
    """Where kubeadm, kubelet and kubectl come from, and the names to ask apt for."""

    def __init__(self, wanted: KubernetesOptions, cache: Path, commands: FullCommands) -> None:
        """Reads a directory's packages, writes nothing. Raises UsageError."""
        self._wanted = wanted
        self.directory = (None if "://" in wanted.packages
                          else FlatRepository(Path(wanted.packages).resolve(), cache, commands))

    def source(self) -> str:
        """One stanza in the format of sources.list(5). Raises UsageError for a key that is not one."""
        if self.directory is not None:
            return f"Types: deb\nURIs: {self.directory.uri}\nSuites: ./\nTrusted: yes\n"
        assert self._wanted.key is not None
        text = self._wanted.key.read_text(errors="replace").strip()
        if not text.startswith(_ARMOUR):
            raise UsageError(f"--kubernetes-key {self._wanted.key} is no OpenPGP key in ASCII armour",
                             hint="gpg --enarmor makes one of a binary key")
        lines = "".join(f" {line.strip() or '.'}\n" for line in text.splitlines())
        return f"Types: deb\nURIs: {self._wanted.packages}\nSuites: /\nSigned-By:\n{lines}"

    def names(self) -> tuple[str, ...]:
        """Exactly these versions, whatever newer ones there are. Raises UsageError for what a directory lacks."""
        version = self._wanted.version
        if self.directory is None:
            return (*PACKAGES, *(f"{name}={version}-*" for name in TOOLS))
        return (*PACKAGES, *(f"{name}={self.directory.version(name, version)}" for name in TOOLS))


def configure(root: Path, wanted: KubernetesOptions, *, commands: FullCommands) -> tuple[str, ...]:
    """Everything but packages and preloaded images. Returns the container images that kubeadm will ask for.

    Raises BuildError when the tree holds another version than wanted, CommandFailed.
    """
    status = (root / "var/lib/dpkg/status").read_text()
    for name in TOOLS:
        match = re.search(rf"^Package: {name}\n(?:.+\n)*?Version: (.*)$", status, re.M)
        found = match[1] if match else "none"
        if not _is(found, wanted.version):
            raise BuildError(f"the image holds {name} {found}, not {wanted.version}",
                             hint="another --package or --deb may ask for it")
    listed = chroot.output(root, ["kubeadm", "config", "images", "list", f"--kubernetes-version=v{wanted.version}"],
                           commands=commands).split()
    pause = [name for name in listed if "/pause:" in name]
    if not pause:
        raise BuildError("kubeadm names no pause image", why=f"it lists {', '.join(listed) or 'nothing'}")
    for name, text in {**FILES, "etc/containerd/config.toml": CONTAINERD.format(pause=pause[0])}.items():
        tree.write(root / name, text)
    for name, target in _LINKS.items():
        tree.link(root / name, target)
    for manifest in wanted.cni:
        tree.write(root / DIRECTORY.lstrip("/") / manifest.name, manifest.read_text())
    return tuple(listed)


def _is(found: str, version: str) -> bool:
    return found == version or found.startswith(f"{version}-")


def missing(asked: Iterable[str], preloaded: Iterable[str]) -> tuple[str, ...]:
    """What an air-gapped node would have to fetch."""
    return tuple(sorted(set(asked) - set(preloaded)))
