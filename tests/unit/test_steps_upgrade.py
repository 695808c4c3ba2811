"""The control plane's upgrade on the old root: what is tried, what is put back, and what is never lost."""

from __future__ import annotations

import json
from typing import Any

import pytest

from k8r_agent.errors import ClusterError, K8rError, Refused, StateError
from k8r_agent.model.slots import Slot
from k8r_agent.steps.cluster_gates import own_version
from k8r_agent.steps.snapshot_etcd import SnapshotEtcd
from k8r_agent.steps.upgrade import SettleControlPlane, UpgradeControlPlane
from k8r_agent.store import cluster as store
from k8r_agent.store import condemned, upgrade
from tests.fakes.cluster import MEMBER
from tests.fakes.kuberaw import change_node
from tests.fakes.upgrading import ME, ControlPlane, control_plane


def snapshot(node: ControlPlane) -> None:
    step = SnapshotEtcd()
    if not step.done(node.world):
        step.apply(node.world)
    assert step.done(node.world)


def attempt(node: ControlPlane, kind: type[UpgradeControlPlane] = UpgradeControlPlane) -> None:
    kind().apply(node.world)
    assert kind().done(node.world)


def put(node: ControlPlane, text: str) -> None:
    data = node.api().data
    node.api().change({**data, "objects": {**data["objects"], text: "applied"}})


def objects(node: ControlPlane) -> list[str]:
    return sorted(node.api().data["objects"])


def test_the_images_kubeadm_upgrades_and_nothing_is_left_open() -> None:
    node = control_plane()
    put(node, "kept")
    snapshot(node)
    assert not UpgradeControlPlane().done(node.world)
    attempt(node)
    assert node.cluster.made == ["upgrade apply v1.32.0 --yes"] and node.image_root.imported == 1
    assert node.api().version == "1.32.0" and objects(node) == ["kept"]
    known = store.membership(node.files)
    assert known is not None and known.kubernetes == "1.32.0"
    assert upgrade.load(node.files) is None and SettleControlPlane().done(node.world)


def test_the_same_version_is_no_upgrade() -> None:
    node = control_plane(image="1.31.4")
    assert UpgradeControlPlane().done(node.world)


def test_another_control_plane_takes_over_what_the_first_wrote_down() -> None:
    node = control_plane(patches="/etc/k8r/patches")
    data = node.api().data
    node.api().change({**data, "kubeadm": "kind: ClusterConfiguration\nkubernetesVersion: v1.32.0\n"})
    attempt(node)
    assert node.cluster.made == ["upgrade node --patches=/etc/k8r/patches"]


@pytest.mark.parametrize(("version", "ignored"), [("1.30.9", True), ("1.32.0", False)])
def test_a_cordoned_node_runs_no_job(version: str, ignored: bool) -> None:
    node = control_plane(image=version)
    change_node(node.api(), ME, unschedulable=True)
    attempt(node)
    assert ("--ignore-preflight-errors=CreateJob" in node.cluster.made[0]) == ignored


def test_a_slow_node_is_not_asked_for_a_job_within_seconds() -> None:
    node = control_plane()
    node.cluster.latency = 0.030
    attempt(node)
    assert node.cluster.made == ["upgrade apply v1.32.0 --yes --ignore-preflight-errors=CreateJob"]


def test_what_kubeadm_refuses_at_once_may_be_tried_again() -> None:
    node = control_plane()
    snapshot(node)
    node.cluster.preflight = ("error execution phase preflight: [preflight] Some fatal errors occurred:\n"
                              "\t[ERROR ImagePull]: failed to pull image registry.k8s.io/kube-apiserver:v1.32.0")
    with pytest.raises(ClusterError, match="kubeadm upgrade failed"):
        attempt(node)
    assert condemned.load(node.files) == () and upgrade.load(node.files) is None
    node.cluster.preflight = ""
    attempt(node)


@pytest.mark.parametrize("rolls_back", [True, False])
def test_a_control_plane_that_does_not_get_well_is_put_back_with_its_data(rolls_back: bool) -> None:
    node = control_plane()
    snapshot(node)
    put(node, "written after the snapshot")
    node.cluster.bad, node.cluster.rolls_back = "1.32.0", rolls_back
    with pytest.raises(Refused, match=r"stays at Kubernetes 1\.31\.4"):
        attempt(node)
    assert str(own_version(node.world)) == "1.31.4" and objects(node) == ["written after the snapshot"]
    assert upgrade.load(node.files) is None and not node.files.names("cluster/upgrade")
    found = condemned.find(node.files, 2)
    assert found is not None and "1.32.0" in found.why


def test_where_etcd_made_the_data_unreadable_the_snapshot_comes_back() -> None:
    node = control_plane()
    put(node, "before")
    snapshot(node)
    node.cluster.bad, node.cluster.converts = "1.32.0", True
    with pytest.raises(Refused):
        attempt(node)
    assert objects(node) == ["before"] and node.api().version == "1.31.4"
    kept = [name for name in node.files.names("cluster") if name.startswith("etcd.before-")]
    assert kept == ["etcd.before-t1"], "the data of the new etcd is put aside, not deleted"
    assert condemned.find(node.files, 2) is not None


def test_a_slow_control_plane_is_waited_for() -> None:
    """As long as the medium is slow; 300 s are those of a good one."""
    node = control_plane()
    snapshot(node)
    node.cluster.slow, node.cluster.latency = 1000.0, 0.040
    attempt(node)
    assert node.api().version == "1.32.0" and condemned.load(node.files) == ()


def test_a_medium_that_cannot_be_measured_is_waited_for_as_the_slowest(monkeypatch: pytest.MonkeyPatch) -> None:
    node = control_plane()
    snapshot(node)

    def full() -> float:
        raise StateError("the state partition's latency cannot be measured", why="No space left on device")

    monkeypatch.setattr(node.cluster, "fsync_seconds", full)
    node.cluster.slow = 1700.0
    attempt(node)
    assert node.api().version == "1.32.0"


def test_slowness_alone_never_replaces_data_that_etcd_can_read() -> None:
    """Not with the longest patience: a healthy etcd keeps its data, and the release is not to blame."""
    node = control_plane()
    snapshot(node)
    put(node, "written after the snapshot")
    node.cluster.bad, node.cluster.rolls_back, node.cluster.slow = "1.32.0", False, 3600.0
    for kind in (UpgradeControlPlane, SettleControlPlane):
        with pytest.raises(ClusterError, match="etcd is, with its present data"):
            attempt(node, kind)
    assert json.loads(node.files.live[MEMBER])["objects"] == {"written after the snapshot": "applied"}
    assert not node.snapshots.restored(ident="t1") and condemned.load(node.files) == ()
    record = upgrade.load(node.files)
    assert record is not None and not record.restoring, "what was begun is not forgotten"
    node.cluster.slow = 0.0
    attempt(node, SettleControlPlane)
    assert objects(node) == ["written after the snapshot"] and node.api().version == "1.31.4"


def test_data_of_several_members_is_never_replaced() -> None:
    node = control_plane()
    node.cluster.others = {"cp-2": True, "cp-3": True}
    snapshot(node)
    node.cluster.bad, node.cluster.converts = "1.32.0", True
    with pytest.raises(Refused, match="etcd has other members"):
        attempt(node)
    assert json.loads(node.files.live[MEMBER])["etcd"] == "1.32.0" and upgrade.load(node.files) is not None


def test_without_a_snapshot_data_is_never_replaced() -> None:
    node = control_plane()
    node.cluster.bad, node.cluster.converts = "1.32.0", True
    with pytest.raises(Refused, match="no snapshot"):
        attempt(node)


def test_an_image_that_says_nothing_needs_force() -> None:
    node = control_plane()
    node.flash("")
    with pytest.raises(Refused, match="holds no Kubernetes"):
        attempt(node)
    node.begin("t2", force="yes")
    attempt(node)
    assert node.cluster.made == []


def test_in_the_image_slot_nothing_is_upgraded_and_nothing_half_done_is_passed_over() -> None:
    node = control_plane()
    node.boot_into(Slot.IMAGE)
    assert UpgradeControlPlane().done(node.world) and SnapshotEtcd().done(node.world)
    upgrade.save(node.files, upgrade.Upgrade(txn="t1", before="1.31.4", after="1.32.0", release=2))
    assert not UpgradeControlPlane().done(node.world)
    with pytest.raises(Refused, match="was not finished"):
        UpgradeControlPlane().apply(node.world)


def test_a_node_without_kubernetes_and_a_worker_have_nothing_to_do() -> None:
    node = control_plane()
    for name in node.cluster.names("etc/kubernetes/manifests"):
        node.cluster.remove(f"etc/kubernetes/manifests/{name}")
    assert UpgradeControlPlane().done(node.world) and SnapshotEtcd().done(node.world)
    node.cluster.version = ""
    assert UpgradeControlPlane().done(node.world) and SettleControlPlane().done(node.world)


def test_what_an_earlier_reinstall_left_is_settled_first() -> None:
    node = control_plane()
    snapshot(node)
    upgrade.save(node.files, upgrade.Upgrade(txn="t0", before="1.31.4", after="1.33.0", release=1, alone=True))
    attempt(node)
    assert node.api().version == "1.32.0"


class Killed(BaseException):
    pass


def run_to(node: ControlPlane, point: int) -> bool:
    """Snapshot and upgrade until the n-th effect; True when there are no more."""
    count = [0]

    def step(name: str) -> None:
        if name.endswith((":after", ":replaced")) or name.startswith("kubeadm:"):
            count[0] += 1
            if count[0] == point:
                raise Killed

    node.files.point = node.cluster.root.point = node.cluster.point = step
    try:
        snapshot(node)
        attempt(node)
    except Killed:
        return False
    except K8rError:
        pass
    finally:
        node.files.point = node.cluster.root.point = node.cluster.point = lambda name: None
    return True


@pytest.mark.parametrize("ending", ["well", "rolled back", "converted"])
def test_killed_anywhere_it_ends_well_and_keeps_what_was_there(ending: str) -> None:
    """By going on, and by giving up."""
    for go_on in (True, False):
        for point in range(1, 200):
            node = control_plane()
            put(node, "before")
            node.cluster.bad = "" if ending == "well" else "1.32.0"
            node.cluster.converts = ending == "converted"
            if run_to(node, point):
                break
            if go_on:
                _finish(node)
            if not SettleControlPlane().done(node.world):
                attempt(node, SettleControlPlane)
            assert objects(node) == ["before"], f"killed at {point}"
            if go_on and ending == "well":
                assert node.api().data["addons"] == "1.32.0", f"killed at {point}: the addons were left out"
            assert node.api().version in (("1.31.4", "1.32.0") if ending == "well" else ("1.31.4",))
            if ending == "well":  # given up or not, the next reinstall brings the rest along
                again(node)
                assert node.api().data["addons"] == "1.32.0", f"killed at {point}: the addons stayed old for good"
            assert upgrade.load(node.files) is None
        assert point > 8, "there are more effects than that"


def again(node: ControlPlane, **args: str) -> None:
    """Another reinstall."""
    node.begin("t2", **args)
    node.world.seen.clear()
    snapshot(node)
    if not UpgradeControlPlane().done(node.world):
        attempt(node)


def given_up_at_the_addons() -> ControlPlane:
    """What is left behind when kubeadm, and then the reinstall, failed after the control plane was upgraded."""
    node = control_plane()
    snapshot(node)
    node.cluster.coredns = "unable to fetch CoreDNS current installed version"
    for _ in range(3):
        with pytest.raises(ClusterError, match="kubeadm upgrade failed"):
            attempt(node)
    attempt(node, SettleControlPlane)
    assert node.api().version == "1.32.0" and "addons" not in node.api().data
    return node


def test_a_control_plane_that_was_upgraded_is_not_taken_back_by_the_next_reinstall() -> None:
    """kubeadm init on the fresh root is told the version that is remembered."""
    known = store.membership(given_up_at_the_addons().files)
    assert known is not None and known.kubernetes == "1.32.0"


def test_addons_that_a_failed_reinstall_left_old_are_brought_along_by_the_next() -> None:
    node = given_up_at_the_addons()
    node.boot_into(Slot.IMAGE)
    assert UpgradeControlPlane().done(node.world), "they are in nobody's way there"
    node.boot_into(Slot.WORKING)
    with pytest.raises(ClusterError):
        again(node)
    attempt(node, SettleControlPlane)
    node.cluster.coredns = ""
    again(node)
    assert node.api().data["addons"] == "1.32.0" and upgrade.load(node.files) is None


def test_addons_that_cannot_be_brought_along_do_not_hold_up_a_forced_reinstall() -> None:
    node = given_up_at_the_addons()
    made = list(node.cluster.made)
    again(node, force="yes")
    assert node.cluster.made == made and "as --force says" in node.report.texts[-1]


def _finish(node: ControlPlane) -> None:
    for _ in range(3):
        try:
            snapshot(node)
            return attempt(node)
        except K8rError:
            continue


def test_force_goes_on_without_a_snapshot_and_says_so() -> None:
    node = control_plane()
    node.snapshots.unreadable = True
    with pytest.raises(K8rError):
        snapshot(node)
    node.begin("t2", force="yes")
    snapshot(node)
    assert "no snapshot of etcd" in node.report.texts[-1]


def test_a_snapshot_knows_whose_it_is() -> None:
    node = control_plane()
    snapshot(node)
    origin: Any = node.snapshots.kept()[0].origin
    assert (origin.member, origin.peer_url, origin.kubernetes, origin.txn) == (
        ME, "https://192.0.2.11:2380", "1.31.4", "t1")
