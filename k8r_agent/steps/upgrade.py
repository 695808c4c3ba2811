"""The control plane goes to the image's Kubernetes while the old system still runs, with the image's own kubeadm.

So kubeadm init on the new root changes no version, no kubelet is ever newer than its API server, and a control plane
that does not become healthy is put right where everything that belongs to it still is. The least loss comes first:
what kubeadm rolls back itself, then the old static pods over the present data, and the snapshot of etcd only when
etcd's new version has made the data unreadable for the old one. Slowness is no reason for that: a healthy etcd keeps
the data that it has.
"""

from __future__ import annotations

import re
from dataclasses import replace

from k8r_agent.cluster import drain, explain, patience, version
from k8r_agent.cluster.api import Api
from k8r_agent.cluster.version import Version
from k8r_agent.errors import ClusterError, K8rError, Refused
from k8r_agent.model.slots import Slot
from k8r_agent.ports.cluster import MANIFESTS, As
from k8r_agent.ports.commands import Result
from k8r_agent.ports.step import World
from k8r_agent.steps import enrolment, etcd_member
from k8r_agent.steps.cluster_gates import concerned, image_version, own_version
from k8r_agent.steps.snapshot_etcd import FACT as SNAPSHOT
from k8r_agent.steps.wait import Wait
from k8r_agent.store import cluster as store
from k8r_agent.store import condemned, upgrade
from k8r_agent.store.upgrade import Upgrade

KUBEADM = "usr/bin/kubeadm"
_CONFIG = "/api/v1/namespaces/kube-system/configmaps/kubeadm-config"
_VERSION = re.compile(r"^kubernetesVersion:\s*\"?(v[\w.+-]+)", re.MULTILINE)
_TOUCHED = "[upgrade/staticpods]"  # kubeadm says so before it changes the first manifest
_TIME = 1800.0  # seconds for all of kubeadm upgrade on a good medium: images are pulled on slow lines


class UpgradeControlPlane:
    """`limit`: seconds that a control plane gets to become healthy, `stopping` to end; both on a good medium and
    processor."""

    name = "upgrade-control-plane"
    summary = "Upgrade the control plane to the Kubernetes of the image"

    def __init__(self, *, limit: float = 300.0, stopping: float = 120.0) -> None:
        self._limit, self._stopping = limit, stopping

    def done(self, world: World) -> bool:
        if not world.cluster.present() or not world.files.persistent():
            return True
        record = upgrade.load(world.files)
        if record is not None and not record.owed:
            return False
        if not concerned(world) or not enrolment.control_plane(world) or world.recall(self.name) == "left out":
            return True
        if record is not None:
            return False
        try:
            return image_version(world) == own_version(world)
        except Refused:
            return False  # nobody knows: apply() says so

    def apply(self, world: World) -> None:
        if world.boot.state().current is not Slot.WORKING:
            raise Refused("the control plane's upgrade was not finished", why="the node does not run from its working "
                          "slot", hint="`k8r-agent reboot --slot working`")
        record = upgrade.load(world.files)
        assert world.txn is not None
        if record is not None and record.restoring:
            self._restore(world, record)
        if world.snapshots.restored(ident=world.txn.id):
            raise Refused("the control plane is not upgraded", why="this reinstall tried it already, and etcd's data "
                          "was restored", hint="`k8r-agent events` says what was tried")
        if record is not None and record.txn != world.txn.id:
            self._settle(world, record)
            record = upgrade.load(world.files)
        owed = record is not None and record.owed
        if owed and enrolment.forced(world):
            upgrade.drop(world.files)
            if self.done(world):
                return world.report.status("the cluster's addons may stay older, as --force says")
        try:
            record = self._begin(world, owed=owed) if record is None or owed else record
        except Refused as error:
            if not enrolment.forced(world):
                raise
            world.report.status(f"the control plane is not upgraded, as --force says: {error}")
            return world.remember(self.name, "left out")
        self._upgrade(world, record)

    def _begin(self, world: World, *, owed: bool) -> Upgrade:
        """What is needed to go back is durable before anything is changed."""
        before, after = own_version(world), image_version(world)
        if before is None or after is None:
            raise Refused("the control plane cannot be upgraded", why="the version that runs is not known" if after
                          else "the image holds no Kubernetes")
        alone = enrolment.stacked_etcd(world) and len(etcd_member.members(world)) == 1
        for name in world.cluster.names(MANIFESTS):
            upgrade.keep_manifest(world.files, name, world.cluster.read(f"{MANIFESTS}/{name}") or b"")
        assert world.txn is not None
        record = Upgrade(txn=world.txn.id, before=str(before), after=str(after), snapshot=world.recall(SNAPSHOT),
                         alone=alone, first=owed or _written_down(world) != after,
                         release=world.slots.status(Slot.IMAGE).release)
        upgrade.save(world.files, record)
        return record

    def _upgrade(self, world: World, record: Upgrade) -> None:
        program = world.image_root.fetch(KUBEADM)
        world.image_root.import_images()
        world.report.status(f"kubeadm upgrade: {record.before} → {record.after}")
        result = world.cluster.kubeadm(_arguments(world, record, program), program=program,
                                       timeout=_TIME * patience.of(world.cluster))
        if not result.code and self._healthy(world, record.after):
            _remember(world, record.after)
            return upgrade.drop(world.files)
        error = explain.explain("kubeadm upgrade", result.stdout + "\n" + result.stderr) if result.code else \
            ClusterError("the control plane does not become healthy", why=f"with Kubernetes {record.after}")
        self._go_back(world, record, result, error)

    def _go_back(self, world: World, record: Upgrade, result: Result, error: ClusterError) -> None:
        """Always raises."""
        touched = _TOUCHED in result.stdout or not result.code
        if self._settled(world, record):
            if not touched or str(own_version(world)) == record.after:
                raise error  # before anything was changed, or after all of it: may be tried again
        else:
            self._put_back(world, record)
        _condemn(world, record, str(error))
        raise Refused(f"the control plane stays at Kubernetes {record.before}", why=str(error), hint=error.hint)

    def _settled(self, world: World, record: Upgrade) -> bool:
        """It is healthy with what it is now; kubeadm put back what it had changed, or changed nothing."""
        now = own_version(world)
        if now is None or not self._healthy(world, str(now)):
            return False
        _remember(world, str(now))
        if str(now) != record.after:
            upgrade.drop(world.files)
        return True

    def _settle(self, world: World, record: Upgrade) -> None:
        if record.owed:
            return
        if record.restoring:
            self._restore(world, record)
        elif not self._settled(world, record):
            self._put_back(world, record)
        elif record.first and str(own_version(world)) == record.after:
            upgrade.save(world.files, replace(record, owed=True))  # kubeadm comes to the addons last
        else:
            upgrade.drop(world.files)

    def _put_back(self, world: World, record: Upgrade) -> None:
        """The old static pods over the present data; where etcd cannot read it any more, over the snapshot's."""
        world.report.status(f"the control plane is not healthy: going back to {record.before}")
        self._place_manifests(world)
        if self._healthy(world, record.before):
            _remember(world, record.before)
            return upgrade.drop(world.files)
        if etcd_member.health(world).code == 0:
            raise ClusterError("the control plane is not healthy", why="etcd is, with its present data, which is not "
                               "replaced", hint="journalctl -u kubelet")
        if record.snapshot in ("", "none") or not record.alone:
            raise Refused("the control plane is not healthy, and etcd's data is not replaced",
                          why="there is no snapshot of it" if record.snapshot in ("", "none") else
                          "etcd has other members: they hold the data", hint="k8r-recovery(7)")
        record = replace(record, restoring=True)
        upgrade.save(world.files, record)
        self._restore(world, record)

    def _restore(self, world: World, record: Upgrade) -> None:
        """May be run again at any point: the record says that it was begun."""
        snapshot = next((s for s in world.snapshots.kept() if s.name == record.snapshot), None)
        if snapshot is None and not world.snapshots.restored(ident=record.txn):
            raise Refused("etcd's data is not restored", why=f"the snapshot {record.snapshot} is not there",
                          hint="k8r-recovery(7)")
        if snapshot is not None:
            if not world.snapshots.restored(ident=record.txn):
                self._stop(world)
            world.snapshots.restore(snapshot, ident=record.txn)  # gives the data of before its name as well
        self._place_manifests(world)
        if not self._healthy(world, record.before):
            raise ClusterError("the control plane is not healthy", why="although etcd's data was restored",
                               hint="k8r-recovery(7)")
        _condemn(world, record, "its control plane did not become healthy, and etcd's data had to be restored")
        _remember(world, record.before)
        upgrade.drop(world.files)

    def _place_manifests(self, world: World) -> None:
        for name, data in upgrade.manifests(world.files).items():
            if world.cluster.read(f"{MANIFESTS}/{name}") != data:
                world.cluster.place(f"{MANIFESTS}/{name}", data)

    def _stop(self, world: World) -> None:
        """The kubelet ends static pods whose manifests are gone."""
        for name in world.cluster.names(MANIFESTS):
            world.cluster.remove(f"{MANIFESTS}/{name}")
        waiting = Wait(world, self._stopping * patience.of(world.cluster))
        while world.cluster.etcd_running():
            if waiting.over:
                raise ClusterError("etcd does not stop", why=f"it still listens after {waiting.limit:.0f} s",
                                   hint="journalctl -u kubelet")
            waiting.pause("waiting for etcd to stop")

    def _healthy(self, world: World, wanted: str) -> bool:
        waiting = Wait(world, self._limit * patience.of(world.cluster))
        while not _serves(world, wanted):
            if waiting.over:
                return False
            waiting.pause(f"waiting for the control plane ({wanted})")
        return True


class SettleControlPlane(UpgradeControlPlane):
    """After a failure or a cancel: what was begun is brought to an end, whichever is the healthy one."""

    name = "settle-control-plane"
    summary = "Leave a control plane behind that works"

    def done(self, world: World) -> bool:
        return (not world.cluster.present() or not world.files.persistent()
                or world.boot.state().current is not Slot.WORKING
                or (record := upgrade.load(world.files)) is None or record.owed)

    def apply(self, world: World) -> None:
        record = upgrade.load(world.files)
        if record is not None:
            self._settle(world, record)


def _remember(world: World, kubernetes: str) -> None:
    """What a fresh system is to bring back: another version would be a downgrade, or an upgrade without its steps."""
    known = store.membership(world.files)
    if known is not None:
        store.remember(world.files, replace(known, kubernetes=kubernetes))


def _serves(world: World, wanted: str) -> bool:
    """The API server says that it is ready, is of that version, and so is its static pod."""
    if str(own_version(world)) != wanted:
        return False
    api = Api(world.cluster, As.ADMIN)
    said = api.get("/version")
    if not said.ok or not api.get("/readyz").ok:
        return False
    try:
        return str(version.parse(str((said.body or {}).get("gitVersion", "")))) == wanted
    except K8rError:
        return False


def _arguments(world: World, record: Upgrade, program: str) -> list[str]:
    """The first control plane of a cluster applies an upgrade; the others take over what it wrote down. To the version
    as this kubeadm spells it: build data are a part of it."""
    target = version.parse(record.after)
    patches = [f"--patches={world.settings.kubernetes.patches}"] if world.settings.kubernetes.patches else []
    if not record.first:
        return ["upgrade", "node", *patches]
    said = world.cluster.kubeadm(["version", "-o", "short"], program=program, timeout=60).stdout.strip()
    return ["upgrade", "apply", said or target.tag, "--yes", *patches,
            *_ignored(Api(world.cluster, As.ADMIN), world, target)]


def _written_down(world: World) -> Version | None:
    """The version that the cluster is at, or was brought to by its first control plane."""
    found = Api(world.cluster, As.ADMIN).get(_CONFIG)
    text = str(((found.body or {}).get("data") or {}).get("ClusterConfiguration", ""))
    said = _VERSION.search(text)
    return version.parse(said[1]) if said else None


def _ignored(api: Api, world: World, target: Version) -> list[str]:
    """kubeadm tries whether a Job runs. Before 1.31 it fails where no node takes pods, and always after 15 s: too few
    for a slow node."""
    if patience.of(world.cluster) > 1:
        return ["--ignore-preflight-errors=CreateJob"]
    found = api.get(drain.node_path(enrolment.node_name(world)))
    closed = found.ok and drain.cordoned(found.body)
    return ["--ignore-preflight-errors=CreateJob"] if closed and target < Version(major=1, minor=31) else []


def _condemn(world: World, record: Upgrade, why: str) -> None:
    condemned.add(world.files, condemned.Condemned(
        release=record.release, why=f"Kubernetes {record.after} did not work on this node: {why}",
        time=world.machine.now()))
