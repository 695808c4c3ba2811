"""A copy of etcd's data on the state partition before a control-plane node is rewritten or upgraded."""

from __future__ import annotations

from k8r_agent.errors import ClusterError, K8rError
from k8r_agent.model import etcd
from k8r_agent.ports.snapshots import Origin
from k8r_agent.ports.step import World
from k8r_agent.steps import enrolment, etcd_member
from k8r_agent.steps.cluster_gates import concerned, own_version

FACT = "etcd-snapshot"  # name of the file; "none" where --force went on without one


class SnapshotEtcd:
    name = "snapshot-etcd"
    summary = "Take a snapshot of etcd and verify it"

    def done(self, world: World) -> bool:
        if world.recall(FACT) or not concerned(world):
            return True
        return not enrolment.stacked_etcd(world)

    def apply(self, world: World) -> None:
        try:
            taken = world.snapshots.take(_origin(world), time=world.machine.now())
        except K8rError as error:
            if not enrolment.forced(world):
                raise
            world.report.status(f"no snapshot of etcd, as --force says: {error}")
            return world.remember(FACT, "none")
        world.report.status(f"snapshot {taken.name}: {taken.keys} keys, revision {taken.revision}")
        world.remember(FACT, taken.name)


def _origin(world: World) -> Origin:
    assert world.txn is not None
    pod = etcd_member.static_pod(world)
    me = etcd.mine(etcd_member.members(world), name=pod.name, address=etcd.host(pod.peer_url))
    if me is None:
        raise ClusterError("no snapshot of etcd is taken", why=f"{pod.name} ({pod.peer_url}) is no member of it")
    return Origin(member=pod.name, peer_url=pod.peer_url, kubernetes=str(own_version(world) or ""), txn=world.txn.id)
