"""A cluster that the agent knows nothing of: noted while its root runs, and protected when only the note is left."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from k8r_agent.errors import CommandFailed, Refused, StateError
from k8r_agent.model.slots import Slot, SlotState, SlotStatus
from k8r_agent.ports.cluster import ETCD, PKI, As
from k8r_agent.steps import by_hand, fresh_working
from k8r_agent.steps.cluster_gates import ClusterGates, prove
from k8r_agent.store import cluster as store
from tests.fakes.member import Member, member
from tests.fakes.upgrading import control_plane


def noted(node: Member) -> str:
    by_hand.note(node.world)
    return node.world.slots.status(Slot.WORKING).by_hand


def joined_by_hand() -> Member:
    node = member()
    node.files.remove(store.MEMBERSHIP)
    return node


def made_by_hand() -> Member:
    node = joined_by_hand()
    node.cluster.root.write(f"{PKI}/ca.key", b"by hand")
    return node


def test_what_the_agent_made_is_not_by_hand() -> None:
    assert noted(member()) == "" and noted(control_plane()) == ""  # type: ignore[arg-type]


def test_the_roles() -> None:
    assert noted(joined_by_hand()) == "worker" and noted(made_by_hand()) == "control-plane"
    node = member()  # of a cluster that it left for one of its own
    node.cluster.root.write(f"{ETCD}/member/wal/0.wal", b"entries")
    assert noted(node) == "control-plane"


def test_it_goes_when_it_is_no_longer_so() -> None:
    node = made_by_hand()
    assert noted(node) == "control-plane"
    for path in (As.NODE.value, f"{PKI}/ca.key"):
        node.cluster.remove(path)
    assert noted(node) == ""


def test_and_when_the_slot_is_written_again() -> None:
    node = made_by_hand()
    assert noted(node)
    node.world.slots.set_status(Slot.WORKING, SlotStatus(state=SlotState.PENDING, release=2))
    assert by_hand.loss(node.world) == ""


def test_only_the_working_slot_knows() -> None:
    node = made_by_hand()
    assert noted(node) == "control-plane"
    node.boot_into(Slot.IMAGE)
    node.cluster.root.live.clear()
    assert noted(node) == "control-plane"


@pytest.mark.parametrize("error", [CommandFailed("no answer"), StateError("membership.json is damaged")])
def test_what_cannot_be_looked_at_proves_nothing(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    node = made_by_hand()
    assert noted(node) == "control-plane"

    def fail(path: str) -> bytes | None:
        raise error

    monkeypatch.setattr(node.cluster, "read", fail)
    assert noted(node) == "control-plane"


def test_nothing_is_written_for_nothing() -> None:
    node = made_by_hand()
    assert noted(node)
    points: list[str] = []
    node.files.point = points.append
    assert noted(node) and points == []


@pytest.mark.parametrize("make", [made_by_hand, joined_by_hand])
def test_in_the_image_slot_it_is_not_written_over_without_force(make: Callable[[], Member]) -> None:
    node = make()
    assert noted(node)
    node.boot_into(Slot.IMAGE)
    assert prove(node.world) == () and ClusterGates().done(node.world), "that slot cannot ask the cluster"
    with pytest.raises(Refused, match="not on the state partition") as caught:
        by_hand.refuse(node.world)
    assert "--force" in caught.value.hint
    node.begin("t2", force="yes")
    by_hand.refuse(node.world)


def test_nor_by_a_first_boot() -> None:
    node = made_by_hand()
    assert fresh_working._fresh(node.world), "one that was never confirmed"
    assert noted(node) and not fresh_working._fresh(node.world)


def test_a_key_alone_is_a_cluster_too() -> None:
    """kubeadm was interrupted, or the node has no kubelet: what the working slot's own gate looked for."""
    node = made_by_hand()
    node.cluster.remove(As.NODE.value)
    assert "kept" in [line.name for line in prove(node.world) if not line.ok]
    with pytest.raises(Refused):
        ClusterGates().apply(node.world)
