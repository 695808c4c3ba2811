"""The update check talks to the network and reads with CAP_DAC_READ_SEARCH: what is secret is out of its sight."""

from __future__ import annotations

from pathlib import Path

import pytest

from k8r_agent.effects import statefiles
from k8r_agent.store import cluster

UNIT = Path(__file__).resolve().parents[2] / "units" / "k8r-update-check.service"


def hidden() -> list[Path]:
    lines = [line.partition("=") for line in UNIT.read_text().splitlines()]
    return [Path(word.removeprefix("-")) for key, _, value in lines if key == "InaccessiblePaths"
            for word in value.split()]


def is_hidden(path: Path) -> bool:
    return any(path == place or place in path.parents for place in hidden())


@pytest.mark.parametrize("name", [cluster.JOIN, f"{cluster.ROOT}/etc/kubernetes/pki/ca.key", "cluster/etcd/member",
                                  "cluster/snapshots/1", "identity/users.json"])
@pytest.mark.parametrize("root", [statefiles.ROOT, statefiles.VOLATILE])
def test_what_is_kept_for_the_node_is_not_read(root: Path, name: str) -> None:
    assert is_hidden(root / name)


@pytest.mark.parametrize("path", ["/etc/shadow", "/etc/ssh/ssh_host_ed25519_key", "/etc/kubernetes/pki/ca.key",
                                  "/var/lib/kubelet/pki/kubelet-client-current.pem", "/var/lib/etcd/member",
                                  "/run/k8r/kubeadm/stdout", "/boot/firmware/k8r.toml", "/etc/k8r/conf.d/join.toml"])
def test_nor_are_the_running_system_s_secrets(path: str) -> None:
    assert is_hidden(Path(path))


def test_what_it_needs_is_in_sight() -> None:
    assert not any(is_hidden(statefiles.ROOT / name) for name in ("slots.json", "release-floor",
                                                                 "quarantined-releases.json"))
    assert not any(map(is_hidden, map(Path, ("/boot/firmware/ca.pem", "/etc/k8r/allowed_signers", "/etc/ssl"))))
