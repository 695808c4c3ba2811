"""A directory of packages as the Kubernetes project's repository gives them: same names, files and dependencies."""

from __future__ import annotations

import os
import shutil
import subprocess
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab.kubernetes import HERE, STAND_IN, VERSION, programs

EPOCH = 1610544000  # the day of v1.20.2
NODE = ("conntrack", "ebtables", "ethtool", "iproute2", "iptables", "mount", "socat", "util-linux")
# Go's threads wake and interrupt each other all the time; under emulation each time costs thousands of instructions.
CALM = ("GOMAXPROCS=1", "GODEBUG=asyncpreemptoff=1")
KUBELET_SERVICE = """\
[Unit]
Description=kubelet: The Kubernetes Node Agent
Documentation=https://kubernetes.io/docs/
Wants=network-online.target
After=network-online.target

[Service]
ExecStart=/usr/bin/kubelet
Restart=always
StartLimitInterval=0
RestartSec=10

[Install]
WantedBy=multi-user.target
"""
KUBEADM_CONF = """\
[Service]
Environment="KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf \
--kubeconfig=/etc/kubernetes/kubelet.conf"
Environment="KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml"
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
EnvironmentFile=-/etc/default/kubelet
ExecStart=
ExecStart=/usr/bin/kubelet $KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS $KUBELET_KUBEADM_ARGS $KUBELET_EXTRA_ARGS
"""
BRIDGE = """\
{"cniVersion": "0.3.1", "name": "lab", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
"""


@dataclass(frozen=True, kw_only=True)
class Package:
    name: str
    version: str
    about: str
    depends: tuple[str, ...] = ()
    files: dict[str, Path | str] = field(default_factory=dict)  # path in the package → file, or its text
    directories: tuple[str, ...] = ()
    architecture: str = "amd64"

    def control(self) -> str:
        depends = f"Depends: {', '.join(self.depends)}\n" if self.depends else ""
        return (f"Package: {self.name}\nVersion: {self.version}\nArchitecture: {self.architecture}\n"
                f"Maintainer: the lab of k8r-agent <root@localhost>\nSection: misc\nPriority: optional\n{depends}"
                f"Description: {self.about}\n")


def of_version(version: str) -> list[Package]:
    """The packages that a repository holds for one version."""
    built, revision = programs() / version, f"{version}-00"
    origin = f"built by the lab of k8r-agent from Debian's source of {VERSION}"
    if version == STAND_IN:
        origin = f"STAND-IN for 1.21: {VERSION} of Debian's source, linked with another version number"
    cni = programs() / "host/usr/lib/cni"
    return [
        Package(name="kubectl", version=revision, about=f"kubectl, {origin}",
                files={"usr/bin/kubectl": built / "kubectl"}),
        Package(name="kubelet", version=revision, about=f"kubelet, {origin}", depends=("kubernetes-cni", *NODE),
                files={"usr/bin/kubelet": built / "kubelet", "lib/systemd/system/kubelet.service": KUBELET_SERVICE},
                directories=("etc/kubernetes/manifests",)),  # else it complains each second
        Package(name="kubeadm", version=revision, about=f"kubeadm, {origin}",
                depends=("kubelet", "kubectl", "kubernetes-cni", "cri-tools"),
                files={"usr/bin/kubeadm": built / "kubeadm",
                       "usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf": KUBEADM_CONF}),
        Package(name="kubernetes-cni", version="1.1.1-00", about="Debian's containernetworking-plugins",
                files={f"opt/cni/bin/{path.name}": path for path in sorted(cni.iterdir())}),
        Package(name="cri-tools", version="0~standin-00", about="STAND-IN for crictl: what kubeadm 1.20 asks of it",
                files={"usr/bin/crictl": HERE / "crictl"}),
    ]


def bridge() -> Package:
    """The pod network of the lab's nodes: on each a bridge of its own. No Kubernetes package, only files."""
    return Package(name="k8r-lab-bridge", version="1", about="pods of one node reach each other", architecture="all",
                   files={"etc/cni/net.d/10-lab.conflist": BRIDGE})


def calm() -> Package:
    """CALM for what runs outside of containers."""
    said = f"[Service]\nEnvironment={' '.join(CALM)}\n"
    files: dict[str, Path | str] = {f"etc/systemd/system/{unit}.service.d/calm.conf": said
                                    for unit in ("kubelet", "containerd")}
    return Package(name="k8r-lab-calm", version="1", about="fewer threads for emulated processors", architecture="all",
                   files=files)


def write(package: Package, into: Path, work: Path) -> Path:
    """NAME_VERSION_ARCHITECTURE.deb, the same bytes each time."""
    root = work / package.name
    for name, content in package.files.items():
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copyfile(content, target)
        else:
            target.write_text(textwrap.dedent(content))
        target.chmod(0o755 if "/bin/" in name else 0o644)
    for name in (*package.directories, "DEBIAN"):
        (root / name).mkdir(parents=True)
    (root / "DEBIAN/control").write_text(package.control())
    into.mkdir(parents=True, exist_ok=True)
    out = into / f"{package.name}_{package.version}_{package.architecture}.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", str(root), str(out)], check=True,
                   stdout=subprocess.DEVNULL, env={**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH)})
    shutil.rmtree(root)
    return out
