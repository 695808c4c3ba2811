"""What a person asks `k8r-image` for, checked and with its defaults. Sizes are bytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

COMPRESSIONS = ("zstd", "xz", "none")
TABLES = ("gpt", "dos")
MIB = 1 << 20
ESP_SIZE = 512 * MIB
ARCHITECTURE = "amd64"


@dataclass(frozen=True, kw_only=True)
class KubernetesOptions:
    """Kubernetes in the image. `packages` is a directory of .deb files or the URL of a flat apt repository, `preload`
    a directory of container image archives, `cni` manifests of pod networks."""

    version: str  # 1.31.4
    packages: str
    key: Path | None = None
    preload: Path | None = None
    cni: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True)
class GoldenOptions:
    """The system inside the image. `mirror` is a URL, a sources file, or "" for the host's own apt sources."""

    release: int
    version: str
    loaders: tuple[str, ...] = ("systemd-boot",)
    debs: tuple[Path, ...] = ()
    kernel: str = "linux-image-amd64"
    suite: str = "bookworm"
    packages: tuple[str, ...] = ()
    mirror: str = ""
    node_sources: Path | None = None
    cmdline: str = ""
    signers: str = ""  # text of an allowed_signers file, "" for none
    authorized_keys: str = ""
    epoch: int = 0
    kubernetes: KubernetesOptions | None = None


@dataclass(frozen=True, kw_only=True)
class BundleOptions:
    """What the manifest says and how artifacts are packed. `created` is seconds since the epoch."""

    release: int
    version: str
    created: int
    compatible: tuple[str, ...] = ("generic-x86_64",)
    os: str = ""
    kubernetes: str = ""
    compression: str = "zstd"
    level: int = 9


@dataclass(frozen=True, kw_only=True)
class DiskOptions:
    """A flashable disk. `bundle` is an absolute directory or a URL prefix.

    `size` and `image_size` 0 mean as small as its content allows.
    """

    bundle: str
    loader: str
    out: Path
    config: Path | None = None
    size: int = 0
    image_size: int = 0
    table: str = "gpt"
    signers: Path | None = None
