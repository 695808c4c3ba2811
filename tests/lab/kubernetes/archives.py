"""Container images of the control plane, one docker archive each: a program, what it needs, nothing else."""

from __future__ import annotations

import hashlib
import io
import json
import re
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.lab.kubernetes import HERE, STAND_IN, programs
from tests.lab.kubernetes.debs import CALM, EPOCH
from tests.lab.kubernetes.fetch import Mirror, unpack

COMPONENTS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "etcd", "pause", "coredns")
# What kube-proxy calls, with all that it needs: its image is the only one with more than one program.
PROXY = ("iptables", "conntrack", "libxtables12", "libip4tc2", "libip6tc2", "libnftnl11", "libmnl0",
         "libnetfilter-conntrack3", "libnfnetlink0", "libc6")
_TABLES = tuple(f"{family}tables{end}" for family in ("ip", "ip6") for end in ("", "-save", "-restore"))
_LIBRARY = re.compile(r"(/\S+) \(0x")


def names(version: str) -> dict[str, list[str]]:
    """Component → image names, as the kubeadm of that version asks for them (`pause` → `k8s.gcr.io/pause:3.2`).

    The stand-in's also under the plain number: who orders a control plane of 1.21.0 means it.
    """
    kubeadm, found = programs() / version / "kubeadm", dict[str, list[str]]()
    for number in dict.fromkeys((version, version.partition("+")[0])):
        listed = subprocess.run([str(kubeadm), "config", "images", "list", f"--kubernetes-version=v{number}"],
                                check=True, capture_output=True, text=True).stdout.split()
        for name in listed:
            component = name.rpartition("/")[2].partition(":")[0]
            if name not in found.setdefault(component, []):
                found[component].append(name)
    return found


def libraries(program: Path) -> list[Path]:
    """Of a dynamically linked program: its loader and libraries, by this host's ldd."""
    done = subprocess.run(["ldd", str(program)], capture_output=True, text=True)
    return [Path(match) for match in _LIBRARY.findall(done.stdout)]


@dataclass(frozen=True)
class Parts:
    """What is made for images only: the tree of PROXY, and the stand-in for CoreDNS."""

    proxy: Path
    coredns: Path

    @classmethod
    def make(cls, work: Path) -> Parts:
        parts = cls(work / "proxy", work / "coredns")
        for deb in Mirror(work / "apt").packages(PROXY, work / "debs"):
            unpack(deb, parts.proxy)
        for name in _TABLES:
            (parts.proxy / "usr/sbin" / name).unlink(missing_ok=True)
            (parts.proxy / "usr/sbin" / name).symlink_to("xtables-nft-multi")
        subprocess.run(["cc", "-static", "-Os", "-s", "-o", str(parts.coredns), str(HERE / "coredns-standin.c")],
                       check=True)
        return parts

    def contents(self, component: str, version: str) -> dict[str, Path]:
        """Path in the image → file."""
        if component == "pause":
            return {"pause": programs() / "pause"}
        if component == "coredns":
            return {"coredns": self.coredns}
        if component == "etcd":
            found = {f"usr/local/bin/{name}": programs() / "host/usr/bin" / name for name in ("etcd", "etcdctl")}
            needed = libraries(found["usr/local/bin/etcd"])  # the loader's name is a link, whose target is not in here
            return {**found, **{str(path).lstrip("/"): path.resolve() for path in needed}}
        found = {f"usr/local/bin/{component}": programs() / version / component}
        if component == "kube-proxy":
            found |= {str(path.relative_to(self.proxy)): path for path in sorted(self.proxy.rglob("*"))
                      if not path.is_dir() and "share" not in path.parts}
        return found


def _tar(files: Mapping[str, bytes | Path]) -> bytes:
    """A link stays one."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.mtime, info.mode = EPOCH, 0o755
            if isinstance(content, Path) and content.is_symlink():
                info.type, info.linkname = tarfile.SYMTYPE, str(content.readlink())
                tar.addfile(info)
                continue
            data = content.read_bytes() if isinstance(content, Path) else content
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def write(component: str, names: Sequence[str], version: str, parts: Parts, into: Path) -> Path:
    """`into`/COMPONENT.tar, in the layout of `docker save`; the same bytes each time."""
    layer = _tar(parts.contents(component, version))
    labels = {"origin": "the lab of k8r-agent, from Debian's source"}
    if component == "coredns":
        labels["stand-in"] = "answers health checks and no names"
    elif version == STAND_IN:
        labels["stand-in"] = f"an older source under the number {version}"
    config = {
        "architecture": "amd64", "os": "linux", "created": "2021-01-13T13:20:00Z",
        "config": {"Env": ["PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", *CALM], "Labels": labels,
                   **({"Entrypoint": [f"/{component}"]} if component in ("pause", "coredns") else {})},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    raw = json.dumps(config, sort_keys=True).encode()
    config_name = f"{hashlib.sha256(raw).hexdigest()}.json"
    manifest = [{"Config": config_name, "RepoTags": list(names), "Layers": ["layer.tar"]}]
    into.mkdir(parents=True, exist_ok=True)
    out = into / f"{component}.tar"
    out.write_bytes(_tar({config_name: raw, "layer.tar": layer, "manifest.json": json.dumps(manifest).encode()}))
    return out
