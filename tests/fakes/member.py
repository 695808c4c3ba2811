"""A node in memory that is a member of somebody else's cluster, for tests of single steps. No power cuts here:
tests/fakes/world.py is the whole node."""

from __future__ import annotations

from dataclasses import dataclass, replace

from k8r_agent.cluster.certificate import ca_hashes
from k8r_agent.config.settings import KubernetesSettings, Settings
from k8r_agent.model.cluster import Membership, Phase
from k8r_agent.model.slots import Slot, SlotState, SlotStatus
from k8r_agent.model.txn import Transaction
from k8r_agent.ports.cluster import KUBELET, PKI, As
from k8r_agent.ports.step import World
from k8r_agent.steps import membership
from tests.fakes import certificates, kuberaw
from tests.fakes.cluster import CERTIFICATE, FakeCluster, Outside
from tests.fakes.machine import FakeMachine
from tests.fakes.simple import Listener, SimpleBoot, simple_world
from tests.fakes.statefiles import FakeStateFiles

ME, OTHER = "node-1", "node-2"


@dataclass
class Member:
    world: World
    cluster: FakeCluster
    api: Outside
    machine: FakeMachine
    files: FakeStateFiles
    report: Listener

    def is_cordoned(self, name: str = ME) -> bool:
        return bool(self.api.data["nodes"][name]["unschedulable"])

    def begin(self, txn: str = "t1", **args: str) -> None:
        """Another transaction."""
        self.world.txn = Transaction(id=txn, task="reinstall", steps=(), args=args)

    def boot_into(self, slot: Slot) -> None:
        assert isinstance(self.world.boot, SimpleBoot)
        self.machine.boot()
        self.world.boot.now = replace(self.world.boot.now, current=slot)


def member(**settings: object) -> Member:
    """Worker node-1 beside node-2, both Ready."""
    api, files, machine, report = Outside(), FakeStateFiles(), FakeMachine(), Listener()
    cluster = FakeCluster(outside=api, files=files)
    for path, data in {As.NODE.value: b"kubelet", f"{KUBELET}/config.yaml": b"kind: KubeletConfiguration\n",
                       f"{KUBELET}/kubeadm-flags.env": b"KUBELET_KUBEADM_ARGS=\n", CERTIFICATE: certificates.NODE,
                       f"{PKI}/ca.crt": certificates.CA}.items():
        cluster.root.write(path, data)
    cluster.kubelet = True
    for name in (ME, OTHER):
        api.register(name, version="1.31.4")
    world = simple_world(files=files, settings=Settings(
        kubernetes=KubernetesSettings(**{"drain_timeout": 60.0, **settings})))  # type: ignore[arg-type]
    world.cluster, world.machine, world.report = cluster, machine, report
    membership.enter(world, Membership(phase=Phase.MEMBER, role="worker", node_name=ME, kubernetes="1.31.4",
                                       ca_hash=ca_hashes(certificates.CA)[0], endpoint="192.0.2.10:6443"))
    for slot in Slot:
        world.slots.set_status(slot, SlotStatus(state=SlotState.OK, release=1))
    found = Member(world, cluster, api, machine, files, report)
    found.begin()

    def remember(name: str, value: str) -> Transaction:
        assert world.txn is not None
        return replace(world.txn, facts={**world.txn.facts, name: value})

    world.remember_fact = remember
    kuberaw.run_pod(api, "default/web-1", ME)
    return found
