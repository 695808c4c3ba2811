"""Which image suits which cluster: the policy as a table, and what holds for every combination of versions."""

from __future__ import annotations

import itertools

import pytest

from k8r_agent.cluster.skew import Running, check, refusals
from k8r_agent.cluster.version import Version, parse
from k8r_agent.errors import Incompatible


def v(text: str) -> Version:
    return parse(text)


def several(text: str) -> tuple[Version, ...]:
    return tuple(parse(word) for word in text.split())


def master(own: str, *, apiservers: str = "", kubelets: str = "", etcd: str = "") -> Running:
    return Running(control_plane=True, own=v(own), apiservers=several(apiservers or own), kubelets=several(kubelets),
                   etcd=v(etcd) if etcd else None)


def worker(apiservers: str, own: str = "") -> Running:
    return Running(control_plane=False, own=v(own) if own else None, apiservers=several(apiservers))


@pytest.mark.parametrize(("image", "running", "rules"), [
    # a control plane: one minor version at a time, never back
    ("1.31.4", master("1.31.4"), ""), ("1.31.5", master("1.31.4"), ""), ("1.32.0", master("1.31.9"), ""),
    ("1.33.0", master("1.31.9"), "minor-skipped"), ("1.36.0", master("1.31.9"), "minor-skipped"),
    ("1.30.9", master("1.31.0"), "minor-downgrade"), ("1.31.3", master("1.31.4"), "patch-downgrade"),
    ("1.33.0-rc.1", master("1.33.0"), "patch-downgrade"), ("1.32.5", master("1.33.0"), "minor-downgrade"),
    ("1.31.0", master("1.31.0", etcd="1.32.0"), "etcd-storage"), ("1.32.0", master("1.31.0", etcd="1.32.0"), ""),
    ("2.0.0", master("1.99.0"), "minor-skipped"),
    # of several
    ("1.32.0", master("1.31.0", apiservers="1.31.0 1.31.0 1.32.0"), ""),
    ("1.32.0", master("1.31.0", apiservers="1.30.0 1.31.0 1.31.0"), "minor-skipped"),
    ("1.31.0", master("1.31.0", apiservers="1.31.0 1.32.0 1.33.0"), "apiservers-apart"),
    # which leave no node behind
    ("1.32.0", master("1.31.0", kubelets="1.29.0 1.31.0"), ""),
    ("1.32.0", master("1.31.0", kubelets="1.28.0 1.31.0"), "kubelet-too-old"),
    ("1.26.0", master("1.25.0", kubelets="1.23.0"), "kubelet-too-old"),
    ("1.26.0", master("1.25.0", kubelets="1.24.0"), ""),
    # a worker: not newer than any API server, not more than three behind the newest
    ("1.31.9", worker("1.31.0"), ""), ("1.32.0", worker("1.31.9"), "kubelet-newer"),
    ("1.32.0", worker("1.31.9 1.32.0"), "kubelet-newer"), ("1.28.0", worker("1.31.0"), ""),
    ("1.27.9", worker("1.31.0"), "kubelet-too-old"), ("1.24.0", worker("1.26.0"), ""),
    ("1.24.0", worker("1.27.0"), "kubelet-too-old"), ("1.30.0", worker("1.31.0", own="1.31.0"), ""),
    # what is not known refuses nothing
    ("1.31.0", Running(control_plane=False), ""), ("1.31.0", Running(control_plane=True), ""),
])
def test_the_policy(image: str, running: Running, rules: str) -> None:
    assert [refusal.rule for refusal in refusals(v(image), running)] == rules.split()


VERSIONS = [v(f"1.{minor}.{patch}") for minor in range(20, 38) for patch in (0, 7)]


@pytest.mark.parametrize("own", VERSIONS, ids=str)
def test_no_control_plane_goes_back_or_jumps(own: Version) -> None:
    for image in VERSIONS:
        allowed = not refusals(image, Running(control_plane=True, own=own, apiservers=(own,), etcd=own))
        assert allowed == (image >= own and image.minor <= own.minor + 1)


def test_an_image_that_is_running_always_suits() -> None:
    for one, two in itertools.product(VERSIONS, repeat=2):
        if abs(one.minor - two.minor) <= 1:
            assert not refusals(one, Running(control_plane=True, own=one, apiservers=(one, two), etcd=one))


def test_a_patch_back_on_request_only() -> None:
    running = master("1.31.4", etcd="1.31.4")
    assert not refusals(v("1.31.3"), running, older_patch=True)
    assert refusals(v("1.30.9"), running, older_patch=True)


def test_an_image_without_kubernetes() -> None:
    with pytest.raises(Incompatible, match="no Kubernetes") as caught:
        check(None, worker("1.31.0"))
    assert "no-kubernetes" in caught.value.why


def test_the_refusal_names_rule_reason_and_remedy() -> None:
    check(v("1.32.0"), master("1.31.0"))
    with pytest.raises(Incompatible) as caught:
        check(v("1.34.0"), master("1.31.2"))
    assert caught.value.why == ("a control plane must not skip a minor version: 1.31.2 runs, 1.32, 1.33 is missing "
                                "[minor-skipped]")
    assert caught.value.hint == "update to 1.32 first"
