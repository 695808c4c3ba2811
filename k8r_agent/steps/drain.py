"""Drain: pods leave before the node goes down. Uncordon: the node takes pods again, unless somebody else said no."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from k8r_agent.cluster import drain
from k8r_agent.cluster.answer import Kind
from k8r_agent.cluster.api import HINTS, Api, expect
from k8r_agent.cluster.drain import Pod, Way
from k8r_agent.errors import ClusterError, Refused
from k8r_agent.model.slots import Slot
from k8r_agent.ports.step import World
from k8r_agent.steps import enrolment
from k8r_agent.steps.wait import Wait
from k8r_agent.store import cordon

FACT = "drain"  # how it went: drained, nowhere, unreachable
DEADLINE = "drain-deadline"  # seconds since the epoch; kept, so that a restart of the agent does not begin anew
_CONFLICTS = 5  # times that somebody else may change the Node under our hands


class Drain:
    name = "drain"
    summary = "Move the pods to other nodes"

    def done(self, world: World) -> bool:
        """Nothing runs in the image slot, and a node that belongs to no cluster has nobody to ask."""
        return (world.recall(FACT) != "" or not world.cluster.present()
                or world.boot.state().current is not Slot.WORKING or not enrolment.enrolled(world))

    def apply(self, world: World) -> None:
        api, name = Api(world.cluster), enrolment.node_name(world)
        first = api.get(drain.node_path(name))
        if first.kind is Kind.NOT_FOUND:
            return world.remember(FACT, "no such node")
        if not first.ok and enrolment.forced(world):
            world.report.status(f"not drained, as --force says: {first.text}")
            return world.remember(FACT, "unreachable")
        _cordon(world, api, name, expect(first, "the node is not drained"))
        leaving = drain.leaving(api.pods(name))
        where = enrolment.elsewhere(world)
        if leaving and where is not None and not where.ready:
            reason = "; ".join(where.closed) or "there is no other node"
            world.report.status(f"{len(leaving)} pods have nowhere to go and come back with the node ({reason})")
            return world.remember(FACT, "nowhere")
        self._empty(world, api, name)
        world.remember(FACT, "drained")

    def _empty(self, world: World, api: Api, name: str) -> None:
        """Until nobody is left, or the time is up: then what kubernetes.when_drain_blocked says."""
        limit = world.settings.kubernetes.drain_timeout
        if not world.recall(DEADLINE):
            world.remember(DEADLINE, str(world.machine.now() + limit))
        # No longer than from now on: the clock may have been set back meanwhile.
        asked, rest = _Asked(api), min(limit, float(world.recall(DEADLINE)) - world.machine.now())
        for way, seconds in ((asked.evict, rest), (asked.delete, limit)):
            left = self._wait(world, api, name, way, seconds)
            if not left:
                return
            if world.settings.kubernetes.when_drain_blocked != "delete":
                break
        why = "; ".join(f"{pod}: {asked.said.get(pod.uid) or 'does not end'}" for pod in left[:5])
        raise Refused(f"the node was not drained within {limit:.0f} s", why=f"{len(left)} pods are left: {why}",
                      hint="mend that or raise kubernetes.drain_timeout; kubernetes.when_drain_blocked = \"delete\" "
                           "overrides disruption budgets")

    def _wait(self, world: World, api: Api, name: str, way: Callable[[Pod], None], limit: float) -> tuple[Pod, ...]:
        """Who is left after `limit` seconds. An API server that does not answer for a while is waited for."""
        waiting, left = Wait(world, limit), tuple[Pod, ...]()
        while True:
            try:
                left = drain.leaving(api.pods(name))
                if not left:
                    return ()
                for pod in left:
                    way(pod)
            except ClusterError as error:
                if waiting.over:
                    raise
                world.report.status(f"{error}")
            if waiting.over:
                return left
            waiting.pause(f"waiting for {len(left)} pods to leave" + (f", {left[0]} first" if left else ""))


class _Asked:
    """Each pod is asked until it goes; `said` is why it does not (by uid)."""

    def __init__(self, api: Api) -> None:
        self._api, self._minor, self._gone = api, api.minor(), set[tuple[str, str]]()
        self.said: dict[str, str] = {}

    def evict(self, pod: Pod) -> None:
        if pod.way is Way.EVICT and ("evicted", pod.uid) not in self._gone:
            self._heard(pod, "evicted", self._api.create(f"{drain.pod_path(pod)}/eviction",
                                                         drain.eviction(pod, self._minor)))

    def delete(self, pod: Pod) -> None:
        if pod.way is Way.EVICT and ("deleted", pod.uid) not in self._gone:
            self._heard(pod, "deleted", self._api.delete(drain.pod_path(pod)))

    def _heard(self, pod: Pod, what: str, found: Any) -> None:
        if found.ok or found.kind in (Kind.NOT_FOUND, Kind.CONFLICT):
            self._gone.add((what, pod.uid))  # going; or made anew under its name
            self.said.pop(pod.uid, None)
        else:
            self.said[pod.uid] = found.text


class Uncordon:
    """`limit`: seconds that the API server gets: after a boot it needs its time, and on the only control-plane node it
    comes up with this very node. When it does not, a good release is not condemned for that: the record stays, and the
    runner tries again."""

    name = "uncordon"
    summary = "Let the node take pods again"

    def __init__(self, *, limit: float = 300.0) -> None:
        self._limit = limit

    def done(self, world: World) -> bool:
        return (not world.files.persistent() or cordon.load(world.files) is None
                or world.recall(self.name) == world.machine.boot_id())

    def apply(self, world: World) -> None:
        record = cordon.load(world.files)
        if record is None:
            return
        if world.boot.state().current is not Slot.WORKING:
            raise Refused(f"{record.node} stays cordoned", why="the node does not run from its working slot",
                          hint="the next reinstall that succeeds uncordons it")
        waiting, api = Wait(world, self._limit), Api(world.cluster)
        while ((found := api.get(drain.node_path(record.node))).kind not in (Kind.OK, Kind.NOT_FOUND)
               and not waiting.over):
            waiting.pause(f"waiting to uncordon {record.node}: {found.text}")
        if found.kind not in (Kind.OK, Kind.NOT_FOUND) and world.remember_fact is not None and not _given_up(world):
            world.report.status(f"{record.node} is still cordoned; that is tried again later: {found.text}")
            return world.remember(self.name, world.machine.boot_id())
        if found.kind is not Kind.NOT_FOUND:
            node = expect(found, f"{record.node} is still cordoned")
            _change(Api(world.cluster), record.node, node, drain.cordoned_by_us, drain.uncordon)
        cordon.drop(world.files)


def _given_up(world: World) -> bool:
    return world.txn is not None and (world.txn.cancel or "failed-step" in world.txn.facts)


def _cordon(world: World, api: Api, name: str, node: Mapping[str, Any]) -> None:
    """An administrator's cordon stays theirs. The record comes first: a power cut in between leaves a record of
    something that was not done, and undoing that is nothing."""
    assert world.txn is not None
    txn = world.txn.id
    if drain.cordoned(node) and not drain.cordoned_by_us(node):
        return
    cordon.save(world.files, cordon.Cordon(node=name, txn=txn, time=world.machine.now()))
    _change(api, name, node, lambda n: not drain.cordoned(n), lambda n: drain.cordon(n, txn))


def _change(api: Api, name: str, node: Mapping[str, Any], wanted: Callable[[Mapping[str, Any]], bool],
            change: Callable[[Mapping[str, Any]], dict[str, Any]]) -> None:
    """Read, change, write back; anew when somebody else was faster. Raises ClusterError."""
    path = drain.node_path(name)
    for _ in range(_CONFLICTS):
        if not wanted(node):
            return
        found = api.replace(path, change(node))
        if found.kind is not Kind.CONFLICT:
            expect(found, f"the Node {name} was not changed")
            return
        node = expect(api.get(path), f"the Node {name} cannot be read")
    raise ClusterError(f"the Node {name} was not changed", why="somebody else changes it all the time",
                       hint=HINTS.get(Kind.CONFLICT, ""))
