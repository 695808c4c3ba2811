"""Names, networks of pods, registries: the small decisions."""

from __future__ import annotations

import hashlib

import pytest

from k8r_agent.cluster import cni, hostname, kubeletflags, registries, versions
from k8r_agent.config import toml
from k8r_agent.config.readers import hostname as valid
from k8r_agent.config.settings import KubernetesSettings
from k8r_agent.errors import ClusterError


@pytest.mark.parametrize(("setting", "current", "address", "name"), [
    ("a", "b", "10.0.0.1", "a"), ("", "b", "10.0.0.1", "b"), ("", "localhost", "10.0.0.1", "10-0-0-1"),
    ("", "Debian", "192.168.1.20", "192-168-1-20"), ("", "", "", ""), ("", "raspberrypi", "", ""),
    ("", "node-0123abcd", "10.0.0.1", "10-0-0-1"), ("", "node-7", "10.0.0.1", "node-7"),
    ("", "ubuntu", "fd00::1", "fd00-0000-0000-0000-0000-0000-0000-0001"),
])
def test_the_name_of_a_node(setting: str, current: str, address: str, name: str) -> None:
    assert hostname.choose(setting=setting, current=current, address=address) == name
    if name:
        assert valid(name) == name


FLANNEL = (b'kind: ConfigMap\ndata:\n  net-conf.json: |\n    {\n      "Network": "10.244.0.0/16",\n'
           b'      "EnableNFTables": false\n    }\n')
URL = "https://e.org/c.yaml"


@pytest.mark.parametrize(("said", "source"), [
    (KubernetesSettings(), "/usr/share/k8r/cni/calico.yaml"),
    (KubernetesSettings(cni="flannel"), "/usr/share/k8r/cni/flannel.yaml"),
    (KubernetesSettings(cni_version="3.25.1"), "/usr/share/k8r/cni/calico-3.25.1.yaml"),
    (KubernetesSettings(cni_manifest="/srv/x.yaml"), "/srv/x.yaml"),
    (KubernetesSettings(cni="none", cni_manifest=URL, cni_sha256="ab" * 32), URL),
])
def test_which_manifest(said: KubernetesSettings, source: str) -> None:
    found = cni.manifest(said)
    assert found is not None and found.source == source and found.remote == (source == URL)
    assert found.sha256 == said.cni_sha256
    assert source in cni.missing(found).why


def test_none_is_an_answer() -> None:
    assert cni.manifest(KubernetesSettings(cni="none")) is None


def test_a_manifest_is_the_one_that_was_named_or_it_is_not_applied() -> None:
    good = cni.Manifest(source=URL, sha256=hashlib.sha256(FLANNEL).hexdigest())
    said = KubernetesSettings(cni_manifest=URL)
    assert cni.prepared(good, FLANNEL, said=said, pod_cidr="10.9.0.0/16") == FLANNEL
    with pytest.raises(ClusterError, match="not the manifest that was named"):
        cni.prepared(good, FLANNEL + b"\n", said=said, pod_cidr="")
    with pytest.raises(ClusterError, match="not a manifest"):
        cni.prepared(cni.Manifest(source="/x"), b"<html>404</html>", said=said, pod_cidr="")


def test_flannel_gets_the_network_of_the_cluster() -> None:
    said, where = KubernetesSettings(cni="flannel"), cni.Manifest(source="/x")
    made = cni.prepared(where, FLANNEL, said=said, pod_cidr="172.30.0.0/16,fd00::/56")
    assert b'"Network": "172.30.0.0/16"' in made and b"10.244" not in made
    with pytest.raises(ClusterError, match="not flannel's"):
        cni.prepared(where, b"kind: Namespace\n", said=said, pod_cidr="172.30.0.0/16")


@pytest.mark.parametrize(("kubelet", "left"), [
    ("1.23.17", None),
    ("1.27.0", "--container-runtime-endpoint=/run/c.sock --pod-infra-container-image=p:3.2"),
    ("1.34.9", "--container-runtime-endpoint=/run/c.sock --pod-infra-container-image=p:3.2"),
    ("1.35.0", "--container-runtime-endpoint=/run/c.sock"), ("", None)])
def test_a_kubelet_is_not_started_with_flags_that_it_lost(kubelet: str, left: str | None) -> None:
    flags = "--container-runtime=remote --container-runtime-endpoint=/run/c.sock --pod-infra-container-image=p:3.2"
    found = kubeletflags.for_kubelet(f'KUBELET_KUBEADM_ARGS="{flags}"\n'.encode(), versions.one(kubelet))
    assert found.decode().split('"')[1].split() == (left or flags).split()


def test_registries_without_tls() -> None:
    made = registries.files(("1.1.1.1:5000", "[fd00::1]:5000"))
    assert list(made) == ["/etc/containerd/certs.d/1.1.1.1:5000/hosts.toml",
                          "/etc/containerd/certs.d/[fd00::1]:5000/hosts.toml"]
    found = toml.loads(made["/etc/containerd/certs.d/1.1.1.1:5000/hosts.toml"])
    assert found["server"] == "http://1.1.1.1:5000"
    assert found["host"]["http://1.1.1.1:5000"]["capabilities"] == ["pull", "resolve"]
