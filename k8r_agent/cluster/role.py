"""Which role a node has, how it comes into its cluster, and why. One rule applies; it is named, never guessed.

No rule makes a second control plane by accident: only `initialise` makes a new cluster, only on a node that neither
keeps one nor was told of one, be it by a token that was used since.
"""

from __future__ import annotations

from dataclasses import dataclass

from k8r_agent.config.settings import KubernetesSettings, Settings
from k8r_agent.errors import Refused
from k8r_agent.model.layout import STATE_LABELS

CONTROL_PLANE, WORKER, UNCLUSTERED = "control-plane", "worker", ""
INITIALISE, JOIN, RETURN, STAY = "initialise", "join", "return", ""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """`setting` is node.role. `kept` is the role in which this node was in a cluster before, by what its state
    partition keeps (a cluster's CA keys: control-plane; a kubelet's credential: worker; else ""). `label` is that of
    the state partition, "" when there is none yet."""

    setting: str
    kept: str = ""
    label: str = ""
    join: bool = False  # endpoint, token and CA hash are known
    named: bool = False  # the CA of a cluster is
    certificate_key: bool = False
    initialise: bool = False


@dataclass(frozen=True, kw_only=True)
class Decision:
    """`role` is "control-plane", "worker" or "" (unclustered). `entry` is how it gets there: "initialise" a new
    cluster, "join" one, "return" from what is kept, or "" (stay as it is). `rule` is stable, for machines."""

    role: str
    entry: str
    rule: str
    reason: str
    hint: str = ""


def facts(settings: Settings, *, kept: str = "", label: str = "") -> Facts:
    k8s = settings.kubernetes
    return Facts(setting=settings.node.role, kept=kept, label=label, join=can_join(k8s),
                 named=bool(k8s.ca_cert_hashes), certificate_key=bool(k8s.certificate_key), initialise=k8s.initialise)


def can_join(k8s: KubernetesSettings) -> bool:
    return bool(k8s.endpoint and k8s.join_token and k8s.ca_cert_hashes)


def decide(found: Facts) -> Decision:
    """Raises Refused when the setting contradicts what the node keeps."""
    if found.kept:
        return _kept(found)
    role, rule, reason = _role(found)
    if role == UNCLUSTERED:
        return Decision(role=role, entry=STAY, rule=rule, reason=reason, hint=_ADD_TOKEN if found.named else _ADD)
    return _entry(found, role, rule, reason)


def state_role(settings: Settings, *, label: str = "") -> str:
    """The role that labels a state partition that is made now: a node that is in no cluster yet gets a worker's."""
    return decide(facts(settings, label=label)).role or WORKER


_ADD = ("on the boot partition, in k8r.toml under [kubernetes]: endpoint, join_token and ca_cert_hashes to join a "
        "cluster, or initialise = true on the first node of a new one")
_ADD_TOKEN = ("`k8r-agent join --token-file FILE`, or kubernetes.join_token in k8r.toml on the boot partition; to "
              "make a new cluster, remove kubernetes.ca_cert_hashes there")
_ADD_KEY = ("to join as a worker set node.role to worker; to join as a control-plane node add "
            "kubernetes.certificate_key to k8r.toml on the boot partition (`kubeadm init phase upload-certs "
            "--upload-certs` on a control-plane node prints one)")


def _kept(found: Facts) -> Decision:
    if found.setting not in ("auto", found.kept):
        raise Refused(f"node.role is {found.setting}, but this node is a {found.kept} node of a cluster",
                      why=f"its state partition keeps the credentials of a {found.kept} node",
                      hint=f"set node.role to {found.kept} or auto; to give the node another role, remove it from its "
                           "cluster and flash it anew with an empty state partition")
    return Decision(role=found.kept, entry=RETURN, rule="kept",
                    reason=f"the state partition keeps what this node was in its cluster: a {found.kept} node")


def _role(found: Facts) -> tuple[str, str, str]:
    if found.setting != "auto":
        return found.setting, "setting", f"node.role is {found.setting}"
    if found.label == STATE_LABELS[CONTROL_PLANE]:
        return CONTROL_PLANE, "state-partition", f"the state partition is labelled {found.label}"
    if found.join:
        return WORKER, "join-information", "the configuration says which cluster to join"
    if found.initialise and not found.named:
        return CONTROL_PLANE, "initialise", "there is nothing to join, and kubernetes.initialise is true"
    return UNCLUSTERED, "nothing", _lacking(found)


def _lacking(found: Facts, role: str = UNCLUSTERED) -> str:
    if found.named:
        return "kubernetes.ca_cert_hashes names a cluster, but there is no token with which to join it"
    return "there is nothing to join" + ("" if role == WORKER else ", and kubernetes.initialise is not set")


def _entry(found: Facts, role: str, rule: str, reason: str) -> Decision:
    """How a node without a kept cluster gets into one. Joining goes before initialising: it cannot make a second."""
    if found.join and role == CONTROL_PLANE and not found.certificate_key:
        return Decision(role=role, entry=STAY, rule=rule, hint=_ADD_KEY,
                        reason=f"{reason}; without a certificate key it cannot join a cluster as one")
    if found.join:
        return Decision(role=role, entry=JOIN, rule=rule, reason=reason)
    if role == CONTROL_PLANE and found.initialise and not found.named:
        return Decision(role=role, entry=INITIALISE, rule=rule, reason=reason)
    return Decision(role=role, entry=STAY, rule=rule, reason=f"{reason}; {_lacking(found, role)}",
                    hint=_ADD_TOKEN if found.named else _ADD)
