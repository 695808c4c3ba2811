"""What runs in this node's cluster, asked of the cluster and of this root: the facts for cluster/skew.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from k8r_agent.cluster import skew, versions
from k8r_agent.cluster.skew import Running
from k8r_agent.cluster.version import Version, parse
from k8r_agent.errors import Incompatible, K8rError
from k8r_agent.model.cluster import Phase
from k8r_agent.model.slots import Slot
from k8r_agent.ports.bundle import Bundle
from k8r_agent.ports.cluster import MANIFESTS, As
from k8r_agent.ports.step import World
from k8r_agent.store import cluster as store

_SECONDS = 20  # for one request


def running(world: World) -> Running | None:
    """None when this node is in no cluster. What cannot be asked now is left out: the image slot has no cluster to
    ask, and an API server that is down must not stand in the way of an update that mends it."""
    found = store.membership(world.files)
    if found is None or found.phase is not Phase.MEMBER:
        return None
    last = versions.one(found.kubernetes)
    if not found.control_plane:
        return Running(control_plane=False, own=last,
                       apiservers=versions.of_server(_ask(world, As.NODE, ["get", "--raw", "/version"])))
    pods = ["get", "pods", "--namespace=kube-system", "--selector=component=kube-apiserver", "--output=json"]
    return Running(
        control_plane=True, own=_own(world) or last, etcd=last,
        apiservers=versions.of_apiservers(_ask(world, As.ADMIN, pods)),
        kubelets=versions.of_nodes(_ask(world, As.ADMIN, ["get", "nodes", "--output=json"]), without=found.node_name))


def check(world: World, bundle: Bundle, *, older_patch: bool = False) -> None:
    """Raises Incompatible, with the rule's name, for an image that this node's cluster could not live with. An image
    without a manifest does not say what it holds."""
    found = running(world) if bundle.raw_manifest else None
    if found is not None:
        held = parse(bundle.manifest.kubernetes) if bundle.manifest.kubernetes else None
        skew.check(held, found, older_patch=older_patch)
        assert_comes_back(world, lambda: held)


def assert_comes_back(world: World, held: Callable[[], Version | None]) -> None:
    """In the image slot, unless forced, for what the working slot is to be written with: a control plane comes back by
    `kubeadm init` with the version that its cluster has. An upgrade needs the old system (steps/upgrade.py), and
    kubeadm refuses a kubelet that is newer, when the old system is gone. `held`: the image's version, asked only where
    it matters, because the answer may be damaged. Raises Incompatible, and what `held` raises."""
    if world.arg("force") == "yes" or world.boot.state().current is not Slot.IMAGE:
        return
    found = store.membership(world.files)
    if found is None or found.phase is not Phase.MEMBER or not found.control_plane:
        return
    last, image = versions.one(found.kubernetes), held()
    if last is None or (image is not None and (image.major, image.minor) == (last.major, last.minor)):
        return
    series = f"{last.major}.{last.minor}"
    raise Incompatible("the working slot is not written with this image",
                       why=f"it holds {f'Kubernetes {image}' if image else 'no Kubernetes'}, this node's control "
                           f"plane is at {last}, and only its old system could upgrade that",
                       hint="`k8r-agent rollback`, or `k8r-agent update DIR|URL` with a release that holds "
                            f"Kubernetes {series}; `k8r-agent reboot --slot working` tries the old system once more")


def _own(world: World) -> Version | None:
    manifest = world.cluster.read(f"{MANIFESTS}/kube-apiserver.yaml") if world.cluster.present() else None
    return versions.of_static_pod(manifest or b"")


def _ask(world: World, who: As, args: Sequence[str]) -> str:
    """What kubectl printed, "" when it could not."""
    if not world.cluster.present():
        return ""
    try:
        result = world.cluster.kubectl([*args, f"--request-timeout={_SECONDS}s"], who=who, timeout=3.0 * _SECONDS)
    except K8rError:
        return ""
    return result.stdout if result.code == 0 else ""
