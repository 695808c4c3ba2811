"""etcd of a cluster that was made by hand is on the working slot alone: nothing but a person's --force writes over it,
also in the image slot, which cannot look there."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from k8r_agent.engine import Outcome
from k8r_agent.errors import Exit
from k8r_agent.model.slots import Slot, SlotState
from k8r_agent.model.txn import TxnState
from k8r_agent.ports.cluster import ETCD, PKI, As
from k8r_agent.steps import duties
from tests.crash.clusters import rested
from tests.crash.explorer import Explorer
from tests.crash.scenarios import MakeLoader, asked, last
from tests.fakes.cluster import FakeCluster
from tests.fakes.golden import BLOCK
from tests.fakes.loaders import LOADERS
from tests.fakes.prompt import Prompt
from tests.fakes.world import NUMBERS, FakeNode


def made_by_hand(loader: MakeLoader, *, when: str = "offer") -> FakeNode:
    """Somebody ran `kubeadm init`; the agent has not looked since."""
    node = FakeNode(loader, when_working_dead=when, cluster=FakeCluster())
    rested(node)
    for path in (As.NODE.value, f"{PKI}/ca.key", f"{ETCD}/member/wal/0.wal"):
        node.cluster.root.write(path, b"by hand")
    return node


def stays_in_image(loader: MakeLoader, *, when: str = "offer") -> FakeNode:
    """Ten minutes later the agent has looked; then the working slot loses a block, and all its boots."""
    node = made_by_hand(loader, when=when)
    node.session()
    node.shut_down()
    start, _ = node.disks.kernel[NUMBERS[Slot.WORKING]]
    node.disks.medium.write(start + BLOCK, bytes(BLOCK))
    node.disks.medium.flush()
    rested(node)
    assert (node.running, node.primary()) == (Slot.IMAGE, Slot.WORKING)
    return node


def to_rest(node: FakeNode) -> None:
    while node.session() is Outcome.REBOOTING:
        node.shut_down()
        node.power_on()


def content(node: FakeNode) -> bytes:
    start, size = node.disks.kernel[NUMBERS[Slot.WORKING]]
    return bytes(node.disks.medium.read(start, size))


@pytest.fixture(params=["systemd-boot", "grub"])
def loader(request: pytest.FixtureRequest) -> MakeLoader:
    return LOADERS[request.param]


@pytest.mark.parametrize("task, args", [("reinstall", {}), ("rescue", {"source": "release-2"})])
def test_the_image_slot_does_not_write_over_it(loader: MakeLoader, task: str, args: dict[str, str]) -> None:
    node = stays_in_image(loader)
    before = content(node)
    node.shut_down()
    asked(node, task, **args)
    assert node.running is Slot.IMAGE
    to_rest(node)  # an operator's word gives the working slot one more boot
    assert (last(node).task, last(node).state) == (task, TxnState.FAILED)
    assert "made by hand" in last(node).facts["why"] and "--force" in last(node).facts["hint"]
    assert content(node) == before and node.world().slots.status(Slot.WORKING).state is SlotState.OK


def test_a_person_may_insist(loader: MakeLoader) -> None:
    node = stays_in_image(loader)
    node.shut_down()
    to_rest(asked(node, "reinstall", force="yes"))
    assert (node.running, last(node).state) == (Slot.WORKING, TxnState.DONE), last(node).note
    assert node.world().slots.status(Slot.WORKING).by_hand == ""


def test_the_node_itself_does_not(loader: MakeLoader) -> None:
    node = stays_in_image(loader, when="reinstall")
    assert last(node).task == "first-boot", "nobody asked for it"
    duty = duties.decide(node.world(), last(node))
    assert duty.action is duties.Action.NONE
    assert "used up its boot tries" in duty.why and "made by hand" in duty.why and "no reinstall by itself" in duty.why
    assert "k8r-agent reinstall --force" in duty.hint and "reboot --slot working" in duty.hint


def test_it_is_said_at_the_prompt_before_anything_is_asked(loader: MakeLoader, tmp_path: Path) -> None:
    prompt = Prompt(tmp_path, world=stays_in_image(loader).world())
    for words in (("reinstall",), ("update", "http://bundles/release-2")):
        assert prompt.run(*words, answer="yes\n") == Exit.FAILED
        assert "made by hand" in prompt.err and "[y/N]" not in prompt.err
    assert not prompt.node.queue.pending()


def test_a_power_cut_leaves_the_old_status_or_the_new_one(loader: MakeLoader) -> None:
    node, seen = made_by_hand(loader), set()

    def cut(running: FakeNode, name: str) -> None:
        for keep in (0.0, 0.5, 1.0):
            copied = copy.deepcopy(running)
            copied.watch = None
            copied.power_cut(keep=keep)
            copied.power_on()
            status = copied.world().slots.status(Slot.WORKING)
            seen.add((status.state, status.release, status.by_hand))

    node.watch = cut
    node.session()
    assert seen == {(SlotState.OK, 1, ""), (SlotState.OK, 1, "control-plane")}


def test_killed_anywhere_it_is_known_in_the_end(loader: MakeLoader) -> None:
    def known(node: FakeNode, crashes: int) -> str:
        status = node.world().slots.status(Slot.WORKING)
        assert (status.state, status.release, status.by_hand) == (SlotState.OK, 1, "control-plane"), status
        return "known"

    figures = Explorer(known, (0, 0)).explore(made_by_hand(loader))
    assert figures.points > 2 and figures.runs > 3
