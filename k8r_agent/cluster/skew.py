"""Which image a node may take, by what runs in its cluster: Kubernetes' version skew policy and kubeadm's own rules,
and the one that kubeadm lacks: it would carry out a downgrade without a word.

Sources: kubernetes.io/releases/version-skew-policy, kubeadm app/phases/upgrade/policy.go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from k8r_agent.cluster.version import Version
from k8r_agent.errors import Incompatible


@dataclass(frozen=True, kw_only=True)
class Running:
    """Versions of what runs now; what is not known is None or (), and then the rules that need it say nothing.

    `control_plane`: this node has the role. `own`: of this node, its control plane or else its kubelet. `apiservers`:
    of every API server that could be asked. `kubelets`: of the other nodes. `etcd`: the Kubernetes that last wrote the
    etcd data on the state partition.
    """

    control_plane: bool
    own: Version | None = None
    apiservers: tuple[Version, ...] = ()
    kubelets: tuple[Version, ...] = ()
    etcd: Version | None = None


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """`rule` is stable, for machines; `why` names the rule in words."""

    rule: str
    why: str
    hint: str


def refusals(image: Version | None, running: Running, *, older_patch: bool = False) -> tuple[Refusal, ...]:
    """Every rule that a node with this image would break. `image` is None when it holds no Kubernetes. `older_patch`
    allows a step back within a minor version, which somebody asked for."""
    if image is None:
        return (Refusal(rule="no-kubernetes", why="it holds no Kubernetes, but this node is in a cluster",
                        hint="build the image with `k8r-image build --kubernetes VERSION`"),)
    rules = _CONTROL_PLANE if running.control_plane else _WORKER
    found = [refusal for rule in rules for refusal in rule(image, running)]
    if older_patch:
        found = [refusal for refusal in found if refusal.rule != "patch-downgrade"]
    return tuple(found)


def check(image: Version | None, running: Running, *, older_patch: bool = False) -> None:
    """Raises Incompatible that names every rule."""
    found = refusals(image, running, older_patch=older_patch)
    if found:
        held = f"Kubernetes {image}" if image else "no Kubernetes"
        raise Incompatible(f"the image ({held}) does not suit this node's cluster",
                           why="; ".join(f"{refusal.why} [{refusal.rule}]" for refusal in found),
                           hint="; ".join(dict.fromkeys(refusal.hint for refusal in found)))


# A rule yields what it refuses. Minor versions are compared as numbers: 1.9 is older than 1.31.

Rule = Callable[[Version, Running], Iterator[Refusal]]


def _minor(version: Version) -> int:
    return version.major * 1000 + version.minor


def _series(minor: int) -> str:
    return f"{minor // 1000}.{minor % 1000}"


def _minor_skipped(image: Version, running: Running) -> Iterator[Refusal]:
    oldest = min((v for v in (*running.apiservers, running.own) if v), default=None)
    if oldest and _minor(image) > _minor(oldest) + 1:
        missing = ", ".join(_series(minor) for minor in range(_minor(oldest) + 1, _minor(image)))
        yield Refusal(rule="minor-skipped", hint=f"update to {_series(_minor(oldest) + 1)} first",
                      why=f"a control plane must not skip a minor version: {oldest} runs, {missing} is missing")


def _minor_downgrade(image: Version, running: Running) -> Iterator[Refusal]:
    if running.own and _minor(image) < _minor(running.own):
        yield Refusal(rule="minor-downgrade",
                      why=f"a control plane never goes back a minor version: {running.own} runs",
                      hint="an older minor version needs an etcd snapshot that was taken with it: k8r-recovery(7)")


def _patch_downgrade(image: Version, running: Running) -> Iterator[Refusal]:
    if running.own and _minor(image) == _minor(running.own) and image < running.own:
        yield Refusal(rule="patch-downgrade", why=f"{running.own} runs on this control plane, which is newer",
                      hint="`k8r-agent rollback` goes back within a minor version on purpose")


def _etcd_storage(image: Version, running: Running) -> Iterator[Refusal]:
    if running.etcd and _minor(image) < _minor(running.etcd):
        yield Refusal(rule="etcd-storage",
                      why=f"etcd's data was written by {running.etcd}; an older one cannot read it",
                      hint=f"use an image with {running.etcd.series} or later")


def _apiservers_apart(image: Version, running: Running) -> Iterator[Refusal]:
    newest = max(running.apiservers, default=None)
    if newest and _minor(image) < _minor(newest) - 1:
        yield Refusal(rule="apiservers-apart", why=f"API servers of a cluster are at most one minor version apart: "
                      f"{newest} runs", hint=f"use an image with {_series(_minor(newest) - 1)} or later")


def _kubelets_left_behind(image: Version, running: Running) -> Iterator[Refusal]:
    oldest = min(running.kubelets, default=None)
    if oldest and _minor(oldest) < _minor(image) - _allowed(oldest):
        yield Refusal(rule="kubelet-too-old", hint="reinstall that node with a newer image first",
                      why=f"a node's kubelet is {oldest}, more than {_allowed(oldest)} minor versions older than this "
                      "control plane would be")


def _kubelet_ahead(image: Version, running: Running) -> Iterator[Refusal]:
    oldest = min(running.apiservers, default=None)
    if oldest and _minor(image) > _minor(oldest):
        yield Refusal(rule="kubelet-newer", why=f"a kubelet must not be newer than an API server: {oldest} runs",
                      hint="update and reinstall the control-plane nodes first")


def _kubelet_behind(image: Version, running: Running) -> Iterator[Refusal]:
    newest = max(running.apiservers, default=None)
    if newest and _minor(image) < _minor(newest) - _allowed(image):
        oldest = _series(_minor(newest) - _allowed(image))
        yield Refusal(rule="kubelet-too-old", why=f"a kubelet must be at most {_allowed(image)} minor versions older "
                      f"than an API server: {newest} runs", hint=f"use an image with {oldest} or later")


def _allowed(kubelet: Version) -> int:
    return 3 if kubelet >= Version(major=1, minor=25) else 2


_CONTROL_PLANE: tuple[Rule, ...] = (_minor_skipped, _minor_downgrade, _patch_downgrade, _etcd_storage,
                                    _apiservers_apart, _kubelets_left_behind)
_WORKER: tuple[Rule, ...] = (_kubelet_ahead, _kubelet_behind)
