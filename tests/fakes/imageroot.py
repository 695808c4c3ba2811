"""An image slot from which a kubeadm and container images can be taken."""

from __future__ import annotations

from dataclasses import dataclass

from k8r_agent.errors import Refused

PROGRAM = "/var/cache/k8r/from-image/usr/bin/kubeadm"


@dataclass
class FakeImageRoot:
    kubeadm: bool = True
    imported: int = 0  # how often

    def fetch(self, path: str) -> str:
        if not self.kubeadm:
            raise Refused(f"the image slot holds no /{path}")
        return PROGRAM

    def import_images(self) -> None:
        self.imported += 1
