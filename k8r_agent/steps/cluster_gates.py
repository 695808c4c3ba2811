"""Before a reinstall: the proof that the node can come back into its cluster, and the refusal when a line fails."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable

from k8r_agent.cluster import drain, paths, proof, skew, version, versions
from k8r_agent.cluster.api import Api
from k8r_agent.cluster.proof import Line
from k8r_agent.cluster.version import Version
from k8r_agent.errors import K8rError, Refused
from k8r_agent.image import manifest as manifests
from k8r_agent.model.slots import Slot
from k8r_agent.ports.cluster import MANIFESTS, PKI, As
from k8r_agent.ports.step import World
from k8r_agent.steps import enrolment, etcd_member, membership
from k8r_agent.steps import skew as running
from k8r_agent.store import cluster as store

FACT = "cluster-gates"
_SERVER = re.compile(r"^\s*server:\s*https?://(\S+?)/?\s*$", re.MULTILINE)


class ClusterGates:
    """Only in the working slot of a node that is in a cluster: elsewhere there is nothing left that could be lost."""

    name = "cluster-gates"
    summary = "Prove that the node can come back into its cluster"

    def done(self, world: World) -> bool:
        return world.recall(FACT) != "" or not concerned(world)

    def apply(self, world: World) -> None:
        refused = proof.refusal(prove(world))
        if refused is not None and not enrolment.forced(world):
            raise refused
        if refused is not None:
            world.report.status(f"reinstalled all the same, as --force says: {refused.why}")
        world.remember(FACT, "forced" if refused else "passed")


def concerned(world: World) -> bool:
    """A CA key that somebody put there is enough: it may be the only one."""
    return (enrolment.enrolled(world) or enrolment.by_hand(world)) and world.boot.state().current is Slot.WORKING


def prove(world: World) -> tuple[Line, ...]:
    """() for a node that is in no cluster. Observes only; each line is found out on its own."""
    if not concerned(world):
        return ()
    answered = Api(world.cluster).get("/version")
    parts: list[tuple[str, Callable[[], Line]]] = [
        ("api", lambda: proof.api(answered)),
        ("ca", lambda: _ca(world, answered=answered.ok)),
        ("credential", lambda: _credential(world)),
        ("kept", lambda: _kept(world)),
        ("skew", lambda: _skew(world)),
    ]
    if enrolment.stacked_etcd(world):
        parts += [("quorum", lambda: _quorum(world)), ("snapshot", lambda: _snapshot(world))]
    if answered.ok:
        parts.append(("pods", lambda: _pods(world)))
    return tuple(_found(name, part) for name, part in parts)


def _found(name: str, part: Callable[[], Line]) -> Line:
    try:
        return part()
    except K8rError as error:
        return proof.unknown(name, error)


def _ca(world: World, *, answered: bool) -> Line:
    conf = (world.cluster.read(As.NODE.value) or b"").decode("utf-8", "replace")
    server, known = _SERVER.search(conf), store.membership(world.files)
    endpoint = server[1] if server else known.endpoint if known else ""
    published = world.cluster.probe(endpoint).ca if endpoint else b""
    return proof.ca(published, world.cluster.read(f"{PKI}/ca.crt") or b"", answered=answered)


def _credential(world: World) -> Line:
    """A control plane makes its own anew, as long as its CA is good; a worker has nothing but what it keeps."""
    now = world.machine.now()
    if enrolment.control_plane(world) and world.cluster.read(f"{PKI}/ca.key") is not None:
        return proof.credential(world.cluster.read(f"{PKI}/ca.crt") or b"", now, what="the cluster's CA")
    return proof.credential(world.cluster.read(enrolment.CERTIFICATE) or b"", now)


def _kept(world: World) -> Line:
    """What a fresh system is made a member with. The step capture-identity brings the copies up to date."""
    found = membership.of(world)
    if found is None:
        return Line(name="kept", ok=False, hint="--force gives its place in the cluster up",
                    text="somebody else brought this node into its cluster, and nothing of that is kept")
    if not membership.complete(world, found):
        return Line(name="kept", ok=False, text="the node is only half in its cluster", hint="`k8r-agent status`")
    missing = [path for path in paths.kept(found.role) if store.kept(world.files, path) is None]
    if missing:
        return Line(name="kept", ok=False, hint="k8r-recovery(7)",
                    text=f"not on the state partition: {', '.join(f'/{path}' for path in missing)}")
    membership.assert_same_place(world, found)
    return Line(name="kept", ok=True, text=f"what makes it the {found.role} node {found.node_name} is kept")


def image_version(world: World) -> Version | None:
    """Of the Kubernetes in the image slot, by its manifest; None when there is none in it. Raises Refused when nobody
    knows."""
    raw = world.slots.kept(world.slots.status(Slot.IMAGE).release, manifests.NAME)
    if raw is None:
        raise Refused("the image slot's Kubernetes is not known", why="its manifest is not kept",
                      hint="`k8r-agent update` writes image slot and manifest anew")
    text = manifests.read(raw).kubernetes
    return version.parse(text) if text else None


def assert_comes_back(world: World) -> None:
    """In the image slot. Raises Incompatible for an image with which a control plane could not come back. One without
    a manifest says nothing of its Kubernetes."""
    with contextlib.suppress(Refused):  # nobody knows
        running.assert_comes_back(world, lambda: image_version(world))


def own_version(world: World) -> Version | None:
    """Of the control plane on this node, by its static pod."""
    return versions.of_static_pod(world.cluster.read(f"{MANIFESTS}/kube-apiserver.yaml") or b"")


def _skew(world: World) -> Line:
    image, now = image_version(world), running.running(world)
    if now is None:
        return Line(name="skew", ok=True, text="the agent did not bring this node into its cluster: not compared")
    older = world.txn is not None and world.txn.task == "rollback"
    oldest = min((v for v in (*now.apiservers, now.own) if v), default=None)
    return proof.skew(skew.refusals(image, now, older_patch=older), str(image or "none"), str(oldest or "unknown"))


def _quorum(world: World) -> Line:
    return proof.quorum(etcd_member.quorum(world), kept=world.cluster.etcd_kept())


def _snapshot(world: World) -> Line:
    needed, free = world.snapshots.room()
    kept = world.snapshots.kept()
    last = f"{(world.machine.now() - kept[0].time) / 3600:.0f} h old, of {kept[0].keys} keys" if kept else ""
    return proof.snapshot(needed=needed, free=free, last=last)


def _pods(world: World) -> Line:
    api = Api(world.cluster)
    return proof.pods(drain.leaving(api.pods(enrolment.node_name(world))), enrolment.elsewhere(world))
