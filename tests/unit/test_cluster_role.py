"""Which role, how into the cluster, by which rule: every combination of facts, and the promises that hold for all."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from k8r_agent.cluster.role import Facts, decide, facts, state_role
from k8r_agent.config.settings import KubernetesSettings, NodeSettings, Settings
from k8r_agent.errors import Refused

MASTER = "masterpersistent"
EVERY = [Facts(setting=setting, kept=kept, label=label, join=join, named=named or join, certificate_key=key,
               initialise=initialise)
         for setting, kept, label, join, named, key, initialise in itertools.product(
             ("auto", "worker", "control-plane"), ("", "worker", "control-plane"), ("", "k8r-state", MASTER),
             (False, True), (False, True), (False, True), (False, True))]


@pytest.mark.parametrize(("found", "role", "entry", "rule"), [
    (Facts(setting="auto"), "", "", "nothing"),
    (Facts(setting="auto", initialise=True), "control-plane", "initialise", "initialise"),
    (Facts(setting="auto", named=True, initialise=True), "", "", "nothing"),
    (Facts(setting="control-plane", named=True, initialise=True), "control-plane", "", "setting"),
    (Facts(setting="auto", label=MASTER, named=True, initialise=True), "control-plane", "", "state-partition"),
    (Facts(setting="auto", join=True), "worker", "join", "join-information"),
    (Facts(setting="auto", join=True, initialise=True), "worker", "join", "join-information"),
    (Facts(setting="auto", label=MASTER), "control-plane", "", "state-partition"),
    (Facts(setting="auto", label=MASTER, initialise=True), "control-plane", "initialise", "state-partition"),
    (Facts(setting="auto", label=MASTER, join=True), "control-plane", "", "state-partition"),
    (Facts(setting="auto", label=MASTER, join=True, certificate_key=True), "control-plane", "join", "state-partition"),
    (Facts(setting="worker"), "worker", "", "setting"),
    (Facts(setting="worker", initialise=True), "worker", "", "setting"),
    (Facts(setting="worker", label=MASTER, join=True), "worker", "join", "setting"),
    (Facts(setting="control-plane"), "control-plane", "", "setting"),
    (Facts(setting="control-plane", initialise=True), "control-plane", "initialise", "setting"),
    (Facts(setting="control-plane", join=True), "control-plane", "", "setting"),
    (Facts(setting="control-plane", join=True, certificate_key=True), "control-plane", "join", "setting"),
    (Facts(setting="auto", kept="worker", label=MASTER, initialise=True), "worker", "return", "kept"),
    (Facts(setting="auto", kept="control-plane", join=True), "control-plane", "return", "kept"),
])
def test_one_rule_applies(found: Facts, role: str, entry: str, rule: str) -> None:
    decision = decide(found)
    assert (decision.role, decision.entry, decision.rule) == (role, entry, rule)
    assert decision.reason and bool(decision.hint) == (entry == "")


@pytest.mark.parametrize("found", [f for f in EVERY if f.kept and f.setting not in ("auto", f.kept)])
def test_a_setting_against_what_the_node_keeps_is_refused(found: Facts) -> None:
    with pytest.raises(Refused, match=f"this node is a {found.kept} node") as caught:
        decide(found)
    assert f"set node.role to {found.kept} or auto" in caught.value.hint


@pytest.mark.parametrize("found", [f for f in EVERY if not f.kept or f.setting in ("auto", f.kept)])
def test_never_a_second_control_plane_by_accident(found: Facts) -> None:
    decision = decide(found)
    if decision.entry == "initialise":
        assert found.initialise and not found.named and not found.kept and decision.role == "control-plane"
    if found.kept:
        assert decision.entry == "return"


def test_the_state_partition_is_labelled_for_the_role_the_node_will_have() -> None:
    assert state_role(Settings()) == "worker"
    assert state_role(Settings(kubernetes=KubernetesSettings(initialise=True))) == "control-plane"
    assert state_role(Settings(node=NodeSettings(role="control-plane"))) == "control-plane"
    told = KubernetesSettings(initialise=True, endpoint="cp:6443", join_token="a", ca_cert_hashes=("sha256:",))
    assert state_role(Settings(kubernetes=told)) == "worker"


def test_a_blanked_token_is_no_join_information() -> None:
    told = KubernetesSettings(endpoint="cp:6443", ca_cert_hashes=("sha256:",))
    assert not facts(Settings(kubernetes=told)).join and facts(Settings(kubernetes=told)).named
    found = decide(facts(Settings(kubernetes=replace(told, initialise=True))))
    assert found.entry == "" and "no token" in found.reason and "ca_cert_hashes" in found.hint
