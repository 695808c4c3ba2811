"""A control plane without machines: the static pods that kubeadm wrote, run as processes on this host.

No kubelet, no containers. Everything else is real: kubeadm's certificates and manifests, etcd, the API server and the
controller manager, in a network namespace and a root directory of their own.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.lab.kubernetes import VERSION, archives, programs, tool
from tests.lab.network import GATEWAY, Network

ADDRESS = GATEWAY  # of the API server, in its namespace
_PODS = ("etcd", "kube-apiserver", "kube-controller-manager")
_COMMAND = re.compile(r"^  - command:\n((?:    - .*\n)+)", re.M)
_START = 300.0  # seconds; a busy machine is slow, not wrong


class Plane:
    """`root` is what a node's root would be: etc/kubernetes and var/lib/etcd. Running from start() to stop()."""

    def __init__(self, root: Path, network: Network, *, version: str = VERSION) -> None:
        self.root, self.network, self.version = root, network, version
        self._children: list[subprocess.Popen[bytes]] = []
        root.mkdir(parents=True, exist_ok=True)
        self._install()

    def _install(self) -> None:
        files = {f"usr/local/bin/{name}": programs() / self.version / name for name in _PODS[1:]}
        etcd = programs() / "host/usr/bin/etcd"
        files |= {"usr/local/bin/etcd": etcd, **{str(path).lstrip("/"): path for path in archives.libraries(etcd)}}
        for name, path in files.items():
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, self.root / name)
            (self.root / name).chmod(0o755)

    def inside(self, *argv: str) -> str:
        """A program of this host, where the control plane is reached. Raises RuntimeError."""
        return self._run(list(argv))

    def kubeadm(self, *arguments: str, config: str = "") -> str:
        """Raises RuntimeError with what it complained about."""
        argv = [str(tool("kubeadm", self.version)), *arguments, f"--rootfs={self.root}"]
        if config:
            (self.root / "kubeadm.yaml").write_text(config)
            argv.append("--config=/kubeadm.yaml")
        return self._run(argv)

    def kubectl(self, *arguments: str, who: str = "admin") -> str:
        """`who` is the name of a kubeconfig that kubeadm wrote."""
        return self._run([str(tool("kubectl", self.version)), f"--kubeconfig={self.root}/etc/kubernetes/{who}.conf",
                          f"--cache-dir={self.root}/cache", "--request-timeout=60s", *arguments])

    def get(self, *arguments: str) -> dict[str, Any]:
        return dict(json.loads(self.kubectl("get", *arguments, "-o", "json")))

    def _run(self, argv: list[str]) -> str:
        done = subprocess.run([*self.network.prefix(), *argv], capture_output=True, text=True, timeout=300,
                              stdin=subprocess.DEVNULL)
        if done.returncode:
            raise RuntimeError(f"{' '.join(map(os.path.basename, argv[:4]))}: {done.stderr[-2000:]}")
        return done.stdout

    def start(self) -> Plane:
        for name in _PODS:
            manifest = (self.root / f"etc/kubernetes/manifests/{name}.yaml").read_text()
            match = _COMMAND.search(manifest)
            assert match, manifest
            command = [line.removeprefix("    - ") for line in match[1].splitlines()]
            with (self.root / f"{name}.log").open("ab") as log:
                self._children.append(subprocess.Popen(
                    [*self.network.prefix(), "chroot", str(self.root), f"/usr/local/bin/{command[0]}", *command[1:]],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log))
        self._wait()
        return self

    def _wait(self) -> None:
        end = time.monotonic() + _START
        while True:
            try:
                self.kubectl("get", "--raw=/readyz")
                self.kubectl("get", "serviceaccount", "default")  # the controller manager works
                return
            except RuntimeError as error:
                dead = [name for name, child in zip(_PODS, self._children, strict=True) if child.poll() is not None]
                if dead or time.monotonic() > end:
                    logs = "".join((self.root / f"{name}.log").read_text()[-1500:] for name in dead or _PODS)
                    why = " ".join(dead) or "too slow"
                    raise RuntimeError(f"no control plane ({why}): {error}\n{logs}") from None
            time.sleep(1)

    def stop(self) -> None:
        for child in reversed(self._children):
            child.terminate()
        for child in self._children:
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self._children = []
