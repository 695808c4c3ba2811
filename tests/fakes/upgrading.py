"""A control-plane node in memory whose kubeadm can upgrade, well and badly; for tests of single steps."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from k8r_agent.cluster import paths
from k8r_agent.cluster.certificate import ca_hashes
from k8r_agent.cluster.paths import STATIC_PODS
from k8r_agent.config.settings import KubernetesSettings, Settings
from k8r_agent.image import manifest as manifests
from k8r_agent.model.bundle import Artifact, Manifest
from k8r_agent.model.cluster import Membership, Phase
from k8r_agent.model.slots import Slot, SlotState, SlotStatus
from k8r_agent.model.txn import Transaction
from k8r_agent.ports.cluster import KUBELET, MANIFESTS, As
from k8r_agent.ports.commands import Result
from k8r_agent.ports.step import World
from k8r_agent.steps import membership
from tests.fakes import certificates, etcd, kubeapi
from tests.fakes.cluster import CERTIFICATE, MEMBER, FakeCluster
from tests.fakes.imageroot import PROGRAM, FakeImageRoot
from tests.fakes.kubeapi import FakeApi
from tests.fakes.machine import FakeMachine
from tests.fakes.simple import Listener, SimpleBoot, simple_world
from tests.fakes.snapshots import FakeSnapshots
from tests.fakes.statefiles import FakeStateFiles

ME = "node-1"
_TAG = re.compile(rb"/kube-apiserver:v(\S+)")
_ETCD = re.compile(rb"/etcd:v(\S+)")


def static_pod(pod: str, version: str) -> bytes:
    return etcd.static_pod(pod, version, name=ME, address="192.0.2.11")


class UpgradingCluster(FakeCluster):
    """`bad`: a version whose control plane never gets well. `converts`: its etcd leaves data that no older one reads.
    `rolls_back`: kubeadm puts the old static pods back, as it does. `members` besides this node's: name → healthy.
    `preflight`: what kubeadm complains of before it changes anything. `newer`: version of the image's kubeadm. `slow`:
    seconds that an API server needs to answer after its static pod was changed, `etcd_slow` those of each of etcd's
    answers. `coredns`: kubeadm's complaint when it comes to the addons."""

    bad, preflight, newer, coredns = "", "", "", ""
    converts, rolls_back, slow, etcd_slow = False, True, 0.0, 0.0

    def __init__(self, *, files: FakeStateFiles, seconds: Callable[[], float] = lambda: 0.0) -> None:
        super().__init__(files=files)
        self.others: dict[str, bool] = {}
        self._seconds, self._pod, self._since = seconds, b"", 0.0

    def kubeadm(self, args: Sequence[str], *, config: str = "", timeout: float, program: str = "kubeadm") -> Result:
        if args[0] == "version":
            return Result(0, f"v{self.newer}\n", "")
        if args[0] != "upgrade":
            return super().kubeadm(args, config=config, timeout=timeout)
        assert program == PROGRAM, f"{program}: the node's own kubeadm cannot go to a newer version"
        self.made.append(" ".join(args))
        if self.preflight:
            return Result(1, "", self.preflight)
        said = '[upgrade/staticpods] Writing new Static Pod manifests to "/etc/kubernetes/tmp"'
        before = {pod: self.root.read(f"{MANIFESTS}/{pod}.yaml") or b"" for pod in STATIC_PODS}
        target = args[2].removeprefix("v") if args[1] == "apply" else self.target()
        for pod in STATIC_PODS:
            self._write(f"{MANIFESTS}/{pod}.yaml", static_pod(pod, target))
            self._run_pods()
        if target != self.bad:
            self._upgraded(target, addons=args[1] == "apply" and not self.coredns)
            if self.coredns and args[1] == "apply":
                return Result(1, said, f"error: error execution phase addon/coredns: {self.coredns}")
            return Result(0, f"{said}\n[upgrade/successful] SUCCESS!", "")
        if self.rolls_back:
            for pod, data in before.items():
                self._write(f"{MANIFESTS}/{pod}.yaml", data)
        return Result(1, said, "error: couldn't upgrade control plane. kubeadm has tried to recover everything: timed "
                               "out waiting for the condition")

    def _upgraded(self, target: str, *, addons: bool) -> None:
        """The cluster's configuration first; the addons are the business of `upgrade apply` alone."""
        data = json.loads(super()._load() or "{}")
        for name, value in (("kubeadm", f"kubernetesVersion: v{target}\n"), *([("addons", target)] if addons else [])):
            self.point(f"kubeadm:upgrade:{name}")
            data[name] = value
            self._save(json.dumps(data, sort_keys=True))

    def target(self) -> str:
        """What another control-plane node's upgrade wrote down."""
        api = self.api()
        assert api is not None
        return str(api.data["kubeadm"].split("kubernetesVersion: v")[1].split()[0])

    def etcdctl(self, args: Sequence[str], *, timeout: float = 60.0) -> Result:
        if not self.etcd_running() or self._load() is None:
            return Result(1, "", "Error: context deadline exceeded")
        others = {name: (f"192.0.2.{number}", well) for number, (name, well) in enumerate(self.others.items(), 12)}
        return etcd.etcdctl(args, {ME: (self.ip, True), **others}, slow=self.etcd_slow)

    def api(self, *, late: bool = False) -> FakeApi | None:
        pod = self.root.read(f"{MANIFESTS}/kube-apiserver.yaml") or b""
        found, tag = super().api(late=late), _TAG.search(pod)
        if pod != self._pod:
            self._pod, self._since = pod, self._seconds()
        if found is None or tag is None or tag[1].decode() == self.bad or self._seconds() < self._since + self.slow:
            return None
        found.version = tag[1].decode()
        return found

    def _load(self) -> str | None:
        text, pod = super()._load(), self.root.read(f"{MANIFESTS}/etcd.yaml")
        tag = _ETCD.search(pod or b"")
        if text is None or tag is None or json.loads(text).get("etcd", "") > tag[1].decode():
            return None
        return text

    def _run_pods(self) -> None:
        tag = _ETCD.search(self.root.read(f"{MANIFESTS}/etcd.yaml") or b"")
        text = super()._load()
        if self.converts and tag is not None and text is not None:
            self._save(json.dumps({**json.loads(text), "etcd": tag[1].decode()}, sort_keys=True))


@dataclass
class ControlPlane:
    world: World
    cluster: UpgradingCluster
    machine: FakeMachine
    files: FakeStateFiles
    report: Listener
    snapshots: FakeSnapshots
    image_root: FakeImageRoot

    def api(self) -> FakeApi:
        found = self.cluster.api()
        assert found is not None, "the API server does not answer"
        return found

    def begin(self, txn: str = "t1", *, task: str = "reinstall", **args: str) -> None:
        self.world.txn = Transaction(id=txn, task=task, steps=(), args=args)

    def boot_into(self, slot: Slot) -> None:
        assert isinstance(self.world.boot, SimpleBoot)
        self.machine.boot()
        self.world.boot.now = replace(self.world.boot.now, current=slot)

    def flash(self, kubernetes: str, *, release: int = 2) -> None:
        """Another image in the image slot."""
        artifacts = tuple(Artifact(kind=kind, file=kind, size=1, sha256="0" * 64, compression="none", unpacked_size=1,
                                   unpacked_sha256="0" * 64) for kind in ("image", "boot"))
        raw = manifests.write(Manifest(
            compatible=("generic-x86_64",), architecture="amd64", release=release, version=f"{release}.0", os="Test",
            kubernetes=kubernetes, created="2026-11-20T11:00:00Z", artifacts=artifacts))
        self.world.slots.keep(release, {manifests.NAME: raw})
        self.cluster.newer = kubernetes
        self.world.slots.set_status(Slot.IMAGE, SlotStatus(state=SlotState.OK, release=release))


def control_plane(*, image: str = "1.32.0", **settings: object) -> ControlPlane:
    """The only control-plane node of its cluster, at 1.31.4, with another release in its image slot."""
    files, machine, report = FakeStateFiles(), FakeMachine(), Listener()
    cluster = UpgradingCluster(files=files, seconds=machine.now)
    for path, data in {As.NODE.value: b"kubelet", As.ADMIN.value: b"admin", f"{KUBELET}/config.yaml": b"kind: x\n",
                       CERTIFICATE: certificates.NODE,
                       **{path: certificates.CA if path.endswith(".crt") else b"key" for path in paths.AUTHORITY},
                       **{f"{MANIFESTS}/{pod}.yaml": static_pod(pod, "1.31.4") for pod in STATIC_PODS}}.items():
        cluster.root.write(path, data)
    found = kubeapi.fresh(ca_hashes(certificates.CA)[0])
    files.write(MEMBER, json.dumps({**found, "kubeadm": "kubernetesVersion: v1.31.4\n"}).encode())
    cluster.kubelet = cluster.etcd_bound = True
    world = simple_world(files=files, settings=Settings(kubernetes=KubernetesSettings(**settings)))  # type: ignore[arg-type]
    node = ControlPlane(world, cluster, machine, files, report,
                        FakeSnapshots(files, running=cluster.etcd_running), FakeImageRoot())
    world.cluster, world.machine, world.report = cluster, machine, report
    world.snapshots, world.image_root = node.snapshots, node.image_root
    membership.enter(world, Membership(phase=Phase.MEMBER, role="control-plane", node_name=ME, kubernetes="1.31.4",
                                       ca_hash=ca_hashes(certificates.CA)[0], founder=True,
                                       endpoint="192.0.2.11:6443"))
    node.api().register(ME, version="1.31.4")
    node.begin()

    def remember(name: str, value: str) -> Transaction:
        assert world.txn is not None
        return replace(world.txn, facts={**world.txn.facts, name: value})

    world.remember_fact = remember
    world.slots.set_status(Slot.WORKING, SlotStatus(state=SlotState.OK, release=1))
    node.flash(image)
    return node
