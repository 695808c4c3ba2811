"""What kubeadm is told, against files that were looked at and, field by field, against kubeadm's published types.

`/usr/bin/python3 -m tests.unit.test_cluster_kubeadmconfig` writes the files anew; look at the difference before you
commit it. That a real kubeadm accepts v1beta2 is a contract test of its own.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from k8r_agent.cluster import kubeadmconfig as k
from k8r_agent.cluster.version import parse
from k8r_agent.config import toml
from k8r_agent.config.settings import KubernetesSettings
from k8r_agent.errors import ClusterError
from k8r_agent.model.cluster import JoinSecret

DATA = Path(__file__).parents[1] / "data/kubeadm"
KUBEADM = {"v1beta2": "1.20.2", "v1beta3": "1.30.5", "v1beta4": "1.31.4"}
PLAIN = KubernetesSettings()
FULL = KubernetesSettings(
    endpoint="cluster.example.org:6443", token_ttl=7200, pod_cidr="10.244.0.0/16,fd00:1::/56",
    service_cidr="10.96.0.0/16", image_repository="mirror.example.org:5000/k8s",
    taints=("a=b:NoSchedule", "c:NoExecute"), extra_sans=("public.example.org", "203.0.113.9"),
    labels=("disk=ssd", "rack=7"), patches="/etc/k8r/patches")
HERE = k.Machine(name="rack1-07", ip="192.168.1.20")
SLOW = replace(HERE, slow=2.5)
SECRET = JoinSecret(endpoint="cluster.example.org:6443", token="abcdef.0123456789abcdef",
                    ca_hashes=("sha256:" + "ab" * 32,), certificate_key="0f" * 32)


def settings(said: KubernetesSettings, version: str) -> KubernetesSettings:
    return replace(said, patches="") if version == "v1beta2" else said


def cases(version: str) -> dict[str, str]:
    kubeadm = parse(KUBEADM[version])
    full, was = settings(FULL, version), k.founding(FULL, endpoint="", slow=SLOW.slow)
    return {
        "init-plain": k.initialise(PLAIN, kubeadm=kubeadm, control_plane=kubeadm, machine=HERE,
                                   was=k.founding(PLAIN, endpoint="192.168.1.20:6443")),
        "init-full": k.initialise(full, kubeadm=kubeadm, control_plane=kubeadm, machine=SLOW, was=was),
        "join-worker": k.join(PLAIN, kubeadm=kubeadm, secret=SECRET, control_plane=False, machine=HERE),
        "join-control-plane": k.join(full, kubeadm=kubeadm, secret=SECRET, control_plane=True, machine=SLOW),
    }


EVERY = [(version, name) for version in KUBEADM for name in ("init-plain", "init-full", "join-worker",
                                                             "join-control-plane")]


def documents(text: str) -> list[dict[str, Any]]:
    return [json.loads(part) for part in text.split("---\n") if part]


@pytest.mark.parametrize(("version", "name"), EVERY)
def test_as_it_was_looked_at(version: str, name: str) -> None:
    assert cases(version)[name] == (DATA / f"{version}-{name}.yaml").read_text()


@pytest.mark.parametrize(("version", "name"), [case for case in EVERY if case[0] != "v1beta2"])
def test_every_field_is_published_with_its_type(version: str, name: str) -> None:
    types = toml.loads((DATA / f"{version}.toml").read_text())
    for document in documents(cases(version)[name]):
        if document["kind"] == "KubeletConfiguration":
            assert document == {"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
                                "cgroupDriver": "systemd"}
            continue
        assert document["apiVersion"] == f"kubeadm.k8s.io/{version}"
        conforms(document, document["kind"], types, document["kind"])


def conforms(value: Any, kind: str, types: dict[str, Any], where: str) -> None:
    if kind.startswith("[]"):
        assert isinstance(value, list), where
        for number, item in enumerate(value):
            conforms(item, kind[2:], types, f"{where}[{number}]")
    elif kind.startswith("{}"):
        assert isinstance(value, dict), where
        for key, item in value.items():
            conforms(item, kind[2:], types, f"{where}.{key}")
    elif kind in types:
        assert isinstance(value, dict), where
        for key, item in value.items():
            assert key in types[kind], f"{where} has no field {key}"
            conforms(item, types[kind][key], types, f"{where}.{key}")
    elif kind == "duration":
        assert re.fullmatch(r"\d+s", value), f"{where}: {value!r}"
    else:
        assert isinstance(value, {"string": str, "bool": bool, "int32": int}[kind]), f"{where}: {value!r}"


@pytest.mark.parametrize("broken", [
    {"kind": "JoinConfiguration", "timeouts": {}}, {"kind": "ClusterConfiguration", "networking": {"podCidr": "x"}},
    {"kind": "InitConfiguration", "nodeRegistration": {"kubeletExtraArgs": [{"name": "a", "value": "b"}]}},
])
def test_the_check_of_the_fields_can_fail(broken: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        conforms(broken, broken["kind"], toml.loads((DATA / "v1beta3.toml").read_text()), "x")


@pytest.mark.parametrize(("kubeadm", "version"), [
    ("1.20.2", "v1beta2"), ("1.21.14", "v1beta2"), ("1.22.0", "v1beta3"), ("1.30.14", "v1beta3"),
    ("1.31.0", "v1beta4"), ("1.31.0-rc.1", "v1beta4"), ("1.37.1", "v1beta4"), ("2.0.0", "v1beta4")])
def test_the_kubeadm_that_is_there_decides_the_version(kubeadm: str, version: str) -> None:
    assert k.dialect(parse(kubeadm)) == version


def test_what_cannot_be_said_is_refused() -> None:
    with pytest.raises(ClusterError, match="too old"):
        k.dialect(parse("1.19.16"))
    with pytest.raises(ClusterError, match=r"patches cannot be used with kubeadm 1\.21\.0"):
        k.join(FULL, kubeadm=parse("1.21.0"), secret=SECRET, control_plane=False, machine=HERE)
    with pytest.raises(ClusterError, match="hash of the cluster's CA"):
        k.join(PLAIN, kubeadm=parse("1.31.0"), secret=replace(SECRET, ca_hashes=()), control_plane=False, machine=HERE)


@pytest.mark.parametrize("version", KUBEADM)
def test_no_taints_at_all_is_said_and_none_said_is_not(version: str) -> None:
    kubeadm = parse(KUBEADM[version])
    for taints, expected in ((None, None), ((), [])):
        text = k.join(KubernetesSettings(taints=taints), kubeadm=kubeadm, secret=SECRET, control_plane=False,
                      machine=HERE)
        assert documents(text)[0]["nodeRegistration"].get("taints") == expected


def test_a_value_cannot_become_syntax() -> None:
    evil = 'x"\n---\nkind: ClusterConfiguration\nfoo: "'
    text = k.join(PLAIN, kubeadm=parse("1.31.0"), secret=replace(SECRET, endpoint=evil), control_plane=False,
                  machine=HERE)
    found = documents(text)
    assert len(found) == 1 and text.count("\n---") == 0
    assert found[0]["discovery"]["bootstrapToken"]["apiServerEndpoint"] == evil


def test_a_cluster_keeps_what_it_was_made_with() -> None:
    was = k.founded(k.founding(FULL, endpoint="").to_json())
    now = replace(FULL, pod_cidr="10.9.0.0/16", endpoint="")
    text = k.initialise(now, kubeadm=parse("1.32.0"), control_plane=parse("1.31.4"), was=was, machine=HERE)
    cluster = documents(text)[1]
    assert cluster["networking"]["podSubnet"] == FULL.pod_cidr
    assert cluster["controlPlaneEndpoint"] == FULL.endpoint and cluster["kubernetesVersion"] == "v1.31.4"
    assert k.differences(now, was) == (
        "kubernetes.pod_cidr is 10.9.0.0/16, but the cluster was made with 10.244.0.0/16,fd00:1::/56",)
    assert k.differences(FULL, was) == ()
    with pytest.raises(ClusterError, match="damaged"):
        k.founded('{"endpoint": "x"}')
    with pytest.raises(ClusterError, match="damaged"):
        k.founded("kind: ClusterConfiguration")


@pytest.mark.parametrize(("slow", "lease"), [(1.0, 15), (2.5, 38), (4.0, 60), (6.0, 60)])
@pytest.mark.parametrize("version", KUBEADM)
def test_on_a_slow_node_a_lead_lasts_longer_and_is_the_same_on_every_control_plane(version: str, slow: float,
                                                                                   lease: int) -> None:
    """client-go refuses a lease that is not longer than the deadline, and a deadline below 1.2 retries."""
    was = k.founding(PLAIN, endpoint="192.168.1.20:6443", slow=slow)
    text = k.initialise(PLAIN, kubeadm=parse(KUBEADM[version]), control_plane=parse(KUBEADM[version]), was=was,
                        machine=replace(HERE, slow=1.0))
    cluster = documents(text)[1]
    assert k.founded(was.to_json()) == was and was.lease == lease
    if slow == 1:
        assert "scheduler" not in cluster and "controllerManager" not in cluster
        return
    for name in ("scheduler", "controllerManager"):
        said = cluster[name]["extraArgs"]
        said = {item["name"]: item["value"] for item in said} if isinstance(said, list) else said
        lasts, renew, retry = (int(said[f"leader-elect-{key}"].removesuffix("s"))
                               for key in ("lease-duration", "renew-deadline", "retry-period"))
        assert lasts == lease and lasts > renew > 1.2 * retry


@pytest.mark.parametrize(("said", "lease"), [
    ("  {}", 15),
    ("    leader-elect-lease-duration: 60s\n    leader-elect-renew-deadline: 40s", 60),
    ("  - name: leader-elect-lease-duration\n    value: 45s\n  - name: v\n    value: '2'", 45)])
def test_who_joins_takes_over_what_the_cluster_was_made_with(said: str, lease: int) -> None:
    text = ('controlPlaneEndpoint: cp:6443\nnetworking:\n  podSubnet: 10.1.0.0/16\n  serviceSubnet: "10.2.0.0/16"\n'
            f"scheduler:\n  extraArgs:\n{said}\n")
    assert k.founded_by(text) == k.Founding(endpoint="cp:6443", pod_cidr="10.1.0.0/16", service_cidr="10.2.0.0/16",
                                            lease=lease)


def test_a_cluster_that_was_made_before_keeps_the_leases_that_its_members_have() -> None:
    assert k.founded('{"endpoint": "x:6443", "pod_cidr": "", "service_cidr": ""}').lease == 15


def write() -> None:
    for version in KUBEADM:
        for name, text in cases(version).items():
            (DATA / f"{version}-{name}.yaml").write_text(text)


if __name__ == "__main__":
    write()
