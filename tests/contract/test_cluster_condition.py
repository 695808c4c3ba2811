"""kubelet-condition: the script that systemd asks before it starts the kubelet."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "etc/libexec/kubelet-condition"
ETCD, STAMP = "etc/kubernetes/manifests/etcd.yaml", "etc/kubernetes/k8r-member"
MEMBER = "var/lib/k8r/cluster/membership.json"
KEPT = "var/lib/k8r/cluster/etcd/member/wal"


class Root:
    """`var/lib/etcd` is a link to the kept directory where a node would have bound it: the same inode."""

    def __init__(self, path: Path, slot: str = "working") -> None:
        self.path = path
        self.file("run/k8r/boot", f"slot={slot}\n")

    def file(self, name: str, text: str = "") -> None:
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        (self.path / name).write_text(text)

    def bind(self) -> None:
        (self.path / "var/lib/k8r/cluster/etcd").mkdir(parents=True, exist_ok=True)
        (self.path / "var/lib/etcd").symlink_to("k8r/cluster/etcd")

    def refusal(self) -> str:
        """"" when the kubelet may start."""
        done = subprocess.run([str(SCRIPT)], env={**os.environ, "K8R_ROOT": str(self.path)}, capture_output=True,
                              text=True, timeout=30, check=False)
        assert done.returncode == (1 if done.stderr else 0), done
        return done.stderr


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(tmp_path)


def control_plane(root: Root, phase: str = "member") -> None:
    root.file(ETCD)
    root.file(MEMBER, f'{{\n "phase": "{phase}"\n}}\n')
    root.file(STAMP)


def test_a_machine_that_is_no_node_of_ours_is_left_alone(root: Root) -> None:
    control_plane(root)
    (root.path / "run/k8r/boot").unlink()
    assert root.refusal() == ""


def test_no_kubelet_in_the_image_slot(tmp_path: Path) -> None:
    assert "the image slot runs" in Root(tmp_path, "image").refusal()


def test_a_cluster_that_somebody_made_by_hand_runs(root: Root) -> None:
    root.file(ETCD)
    assert root.refusal() == ""


def test_a_root_that_is_only_half_in_waits(root: Root) -> None:
    root.file(MEMBER, '"phase": "member"')
    assert "not come back" in root.refusal()
    root.file("run/k8r/entering")
    assert root.refusal() == ""


def test_a_worker_that_lost_its_state_partition_goes_on(root: Root) -> None:
    root.file(STAMP)
    assert root.refusal() == ""


def test_a_control_plane_needs_etcds_data_from_the_state_partition(root: Root) -> None:
    control_plane(root)
    (root.path / "var/lib/etcd").mkdir(parents=True)
    assert "not on the state partition" in root.refusal()
    (root.path / "var/lib/etcd").rmdir()
    root.bind()
    assert "empty etcd" in root.refusal()
    root.file(KEPT)
    assert root.refusal() == ""


def test_a_control_plane_without_its_state_partition_stays_down(root: Root) -> None:
    control_plane(root)
    root.file("var/lib/etcd/member/wal")
    (root.path / MEMBER).unlink()
    assert "not on the state partition" in root.refusal()


def test_a_new_cluster_begins_with_an_empty_etcd(root: Root) -> None:
    control_plane(root, "entering")
    (root.path / STAMP).unlink()
    root.file("run/k8r/entering")
    root.bind()
    assert root.refusal() == ""
