"""Line by line: what a node must show before it is taken out of its cluster."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from k8r_agent.cluster import paths, proof
from k8r_agent.cluster.proof import DAY, Line
from k8r_agent.errors import Refused
from k8r_agent.model.slots import Slot
from k8r_agent.steps.cluster_gates import ClusterGates, prove
from k8r_agent.store import cluster as store
from tests.fakes import certificates
from tests.fakes.cluster import MEMBER
from tests.fakes.kuberaw import run_pod
from tests.fakes.member import ME, member
from tests.fakes.upgrading import ControlPlane, control_plane


def lines(node: ControlPlane) -> dict[str, Line]:
    return {line.name: line for line in prove(node.world)}


def failing(node: ControlPlane) -> list[str]:
    return [line.name for line in prove(node.world) if not line.ok]


def test_a_healthy_control_plane_proves_every_line() -> None:
    node = control_plane()
    run_pod(node.api(), "default/web", ME)
    found = lines(node)
    assert list(found) == ["api", "ca", "credential", "kept", "skew", "quorum", "snapshot", "pods"]
    assert [line.text for line in found.values() if not line.ok] == []
    assert found["skew"].text == "Kubernetes 1.32.0 may follow 1.31.4"
    assert "the only etcd member" in found["quorum"].text and "come back with the node" in found["pods"].text
    step = ClusterGates()
    assert not step.done(node.world)
    step.apply(node.world)
    assert step.done(node.world)


def test_a_worker_proves_less() -> None:
    node = member()
    node.world.slots.keep(1, {})
    found = {line.name: line for line in prove(node.world)}
    assert list(found) == ["api", "ca", "credential", "kept", "skew", "pods"]
    assert found["pods"].text == "1 pod can move to node-2"
    assert "the node's credential is good for" in found["credential"].text


def test_an_api_server_that_is_down() -> None:
    node = control_plane()
    node.cluster.kubelet = False
    assert "api" in failing(node) and "pods" not in lines(node)


def test_the_ca_of_another_cluster() -> None:
    node = control_plane()
    node.cluster.root.write("etc/kubernetes/kubelet.conf", b"    server: https://192.0.2.11:6443\n")
    node.cluster.root.write("etc/kubernetes/pki/ca.crt", certificates.OTHER_CA)
    node.cluster.probe = lambda endpoint: type("P", (), {"ca": certificates.CA})()  # type: ignore[method-assign]
    assert failing(node) == ["ca"] and "another cluster" in lines(node)["ca"].hint


def test_a_worker_that_somebody_joined_by_hand_would_not_come_back() -> None:
    node = member()
    node.files.remove(store.MEMBERSHIP)
    found = {line.name: line for line in prove(node.world)}
    assert not found["kept"].ok and "nothing of that is kept" in found["kept"].text and found["kept"].hint


@pytest.mark.parametrize("spoil, says", [
    (lambda node: node.files.remove(f"{store.ROOT}/{paths.AUTHORITY[-2]}"), "/etc/kubernetes/pki/sa.key"),
    (lambda node: node.cluster.remove(paths.STAMP), "half in"),
    (lambda node: setattr(node.cluster, "host", "renamed"), "its host name was node-1 and is renamed now"),
], ids=["a key", "the stamp", "the name"])
def test_what_the_way_back_needs_and_is_not_there(spoil: Callable[[ControlPlane], None], says: str) -> None:
    """Afterwards there is only the image slot to find that out in."""
    node = control_plane()
    spoil(node)
    assert failing(node) == ["kept"] and says in lines(node)["kept"].text and lines(node)["kept"].hint


def test_an_image_that_skips_a_minor() -> None:
    node = control_plane(image="1.34.0")
    assert failing(node) == ["skew"] and "[minor-skipped]" in lines(node)["skew"].text


def test_an_image_whose_kubernetes_nobody_knows() -> None:
    node = control_plane()
    node.files.remove("manifests/2/manifest.toml")
    assert failing(node) == ["skew"]


def test_two_members_and_a_sick_one() -> None:
    node = control_plane()
    node.cluster.others = {"cp-2": True}
    assert failing(node) == ["quorum"]
    node.cluster.others = {"cp-2": True, "cp-3": False}
    assert failing(node) == ["quorum"] and "cp-3: no answer" in lines(node)["quorum"].text
    node.cluster.others = {"cp-2": True, "cp-3": True}
    assert failing(node) == []


def test_a_slow_answer_of_etcd_is_no_refusal() -> None:
    """One, right after a boot, was enough for that."""
    node = control_plane()
    node.cluster.others = {"cp-2": True, "cp-3": True}
    node.cluster.etcd_slow = 20.0
    assert failing(node) == []
    node.cluster.etcd_slow = 40.0
    assert failing(node) == ["quorum"] and "deadline exceeded" in lines(node)["quorum"].text


def test_data_that_is_not_on_the_state_partition() -> None:
    node = control_plane()
    node.cluster.etcd_kept = lambda: False  # type: ignore[method-assign]
    assert failing(node) == ["quorum"]


def test_no_room_for_a_snapshot() -> None:
    node = control_plane()
    node.snapshots.space = 10
    assert failing(node) == ["snapshot"]


def test_a_line_that_cannot_be_found_out_is_not_proved() -> None:
    node = control_plane()
    del node.files.live[MEMBER]
    found = lines(node)
    assert not found["snapshot"].ok and not found["quorum"].ok


def test_one_bad_line_refuses_and_force_overrides() -> None:
    node = control_plane(image="1.34.0")
    with pytest.raises(Refused) as caught:
        ClusterGates().apply(node.world)
    assert caught.value.why.startswith("skew: ") and caught.value.hint
    node.begin("t2", force="yes")
    ClusterGates().apply(node.world)
    assert ClusterGates().done(node.world) and "as --force says" in node.report.texts[-1]


def test_outside_of_a_cluster_there_is_nothing_to_prove() -> None:
    node = control_plane()
    node.boot_into(Slot.IMAGE)
    assert prove(node.world) == () and ClusterGates().done(node.world)
    node.boot_into(Slot.WORKING)
    node.cluster.version = ""
    assert prove(node.world) == () and ClusterGates().done(node.world)


def test_how_long_a_credential_is_good() -> None:
    from k8r_agent.cluster import certificate

    read = certificate.read(certificates.NODE)
    for at, ok, words in ((read.not_after - 100 * DAY, True, "good for 100 days"),
                          (read.not_after - 3600, False, "expires in 1 h"),
                          (read.not_after + 3 * DAY, False, "expired 3 days ago"),
                          (0.0, False, "not good yet")):
        line = proof.credential(certificates.NODE, at)
        assert line.ok == ok and words in line.text, line.text
    assert not proof.credential(b"rubbish", 0.0).ok


def test_a_cluster_that_does_not_publish_its_ca_was_compared_by_kubectl() -> None:
    assert proof.ca(b"", certificates.CA, answered=True).ok
    assert not proof.ca(b"", certificates.CA, answered=False).ok
    assert not proof.ca(b"", b"", answered=True).ok
