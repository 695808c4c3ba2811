"""What is installed on the running root. `status` asks this, and pays for nothing else."""

from __future__ import annotations

from pathlib import Path


def kubernetes(root: Path = Path("/")) -> bool:
    return all((root / "usr/bin" / name).exists() for name in ("kubeadm", "kubelet"))
