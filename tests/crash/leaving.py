"""Nodes of a cluster on their way out of it and back, and what each must end as: never cordoned by us, nor let back
against an administrator's word."""

from __future__ import annotations

from k8r_agent.model.slots import Slot
from k8r_agent.store import cordon
from tests.crash.clusters import founder, joiner, rested, updated
from tests.crash.explorer import Judge
from tests.crash.scenarios import MakeLoader, Unhealthy, asked
from tests.fakes import kuberaw
from tests.fakes.cluster import Outside
from tests.fakes.kubeapi import FakeApi
from tests.fakes.world import Behaviour, FakeNode

ME, OTHER = "node-1", "node-2"


def worker(loader: MakeLoader, behaviour: Behaviour | None = None, *, by_admin: bool = False,
           blocked: bool = False) -> FakeNode:
    """With a pod that can move to another node, and release 2 in the image slot. `by_admin`: cordoned by somebody
    else; `blocked`: a disruption budget keeps its pod."""
    node = updated(joiner(loader), behaviour)
    api = node.cluster.outside
    assert isinstance(api, Outside)
    api.register(OTHER, version="1.31.4")
    kuberaw.run_pod(api, "default/web", ME, budget="web")
    api.change({**api.data, "budgets": {"web": 0 if blocked else 1}})
    if by_admin:
        kuberaw.change_node(api, ME, unschedulable=True)
    return node


def stranded_worker(loader: MakeLoader) -> FakeNode:
    """Release 2 never got well: the node stays in the image slot, out of its cluster."""
    node = asked(worker(loader, Unhealthy()), "reinstall")
    rested(node)
    assert node.running is Slot.IMAGE
    node.shut_down()
    return node


def control_plane(loader: MakeLoader, behaviour: Behaviour | None = None) -> FakeNode:
    """The only node of its cluster: its pods have nowhere to go."""
    node = updated(founder(loader), behaviour)
    node.power_on()
    api = node.cluster.api()
    assert api is not None
    kuberaw.run_pod(api, "default/web", ME, budget="web")
    api.change({**api.data, "budgets": {"web": 0}})
    node.shut_down()
    return node


def as_it_was(verdict: Judge, *, cordoned: bool = False, pod: bool | None = None) -> Judge:
    """As `verdict`, and the Node takes pods as it did before. In the image slot it takes none in any case: there the
    record must be left, so that the next reinstall lets it back. `pod`: whether default/web is still its."""

    def look(node: FakeNode, crashes: int) -> str:
        how, api = verdict(node, crashes), _api(node)
        if node.running is Slot.IMAGE:
            if api is not None and kuberaw.marked(api, ME):
                assert cordon.load(node.files) is not None, "nobody will ever uncordon it"
            return how
        assert api is not None, "the API server does not answer"
        assert bool(api.data["nodes"][ME]["unschedulable"]) is cordoned, f"cordoned: {not cordoned}"
        assert not kuberaw.marked(api, ME) and cordon.load(node.files) is None
        mine = [name for name, found in api.data["pods"].items() if found["node"] == ME]
        assert pod is None or ("default/web" in mine) is pod, mine
        return how

    return look


def _api(node: FakeNode) -> FakeApi | None:
    return node.cluster.outside or node.cluster.api()


