"""The lab's own SSH keys: one to log in, one to sign bundles."""

from __future__ import annotations

import threading
from pathlib import Path

from tests.lab.network import run

_making = threading.Lock()  # stories begin side by side


def ssh_key(path: Path) -> str:
    """Make the key pair once; the public half, one line."""
    public = path.with_name(path.name + ".pub")
    with _making:
        if not public.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "k8r-lab", "-f", str(path))
    return public.read_text().strip()
