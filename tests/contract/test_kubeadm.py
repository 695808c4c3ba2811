"""The real kubeadm takes every configuration that the agent writes, on a fresh root and on one that keeps its state.

kubeadm runs in an empty directory as its root, with nothing but its configuration: it makes certificates, kubeconfigs
and static pods there as it would on a node.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from k8r_agent.cluster import certificate, kubeadmconfig
from k8r_agent.cluster.version import parse
from k8r_agent.config.settings import KubernetesSettings
from k8r_agent.model.cluster import JoinSecret
from tests.lab.kubernetes import STAND_IN, VERSION, VERSIONS, tool

pytestmark = [pytest.mark.root, pytest.mark.kube]

HERE = kubeadmconfig.Machine(name="rack1-07", ip="192.168.1.20")
PLAIN = KubernetesSettings()
SETTINGS = {
    "plain": PLAIN,
    "endpoint": replace(PLAIN, endpoint="cluster.example.org:6443"),
    "networks": replace(PLAIN, pod_cidr="10.244.0.0/16", service_cidr="10.97.0.0/16"),
    "names": replace(PLAIN, extra_sans=("public.example.org", "203.0.113.9")),
    "labels": replace(PLAIN, labels=("disk=ssd", "rack=7")),
    "no-taints": replace(PLAIN, taints=()),
    "taints": replace(PLAIN, taints=("a=b:NoSchedule", "c:NoExecute")),
    "repository": replace(PLAIN, image_repository="mirror.example.org:5000/k8s"),
    "token": replace(PLAIN, token_ttl=300.0),
}
SECRET = JoinSecret(endpoint="cluster.example.org:6443", token="abcdef.0123456789abcdef",
                    ca_hashes=("sha256:" + "ab" * 32,), certificate_key="0f" * 32)
# What a control-plane node keeps when it is reinstalled; kubeadm makes everything else anew.
KEPT = tuple(f"etc/kubernetes/pki/{name}" for name in (
    "ca.crt", "ca.key", "front-proxy-ca.crt", "front-proxy-ca.key", "etcd/ca.crt", "etcd/ca.key", "sa.key", "sa.pub"))
PHASES = (("certs", "all"), ("kubeconfig", "all"), ("control-plane", "all"), ("etcd", "local"))


def initialise(said: KubernetesSettings = PLAIN, *, machine: kubeadmconfig.Machine = HERE, version: str = VERSION,
               ) -> str:
    number = parse(version)
    was = kubeadmconfig.founding(said, endpoint=f"{machine.ip}:6443", slow=machine.slow)
    return kubeadmconfig.initialise(said, kubeadm=number, control_plane=number, was=was, machine=machine)


def kubeadm(root: Path, *arguments: str, version: str = VERSION) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(tool("kubeadm", version)), *arguments, f"--rootfs={root}"], capture_output=True,
                          text=True, timeout=300)


def migrated(root: Path, text: str, *, version: str = VERSION) -> str:
    """The configuration as kubeadm understood it, every default filled in. No warning, no unknown field."""
    (root / "given.yaml").write_text(text)
    done = kubeadm(root, "config", "migrate", "--old-config=/given.yaml", "--new-config=/understood.yaml",
                   version=version)
    assert done.returncode == 0, done.stderr
    assert "strict" not in done.stderr and "unknown field" not in done.stderr, done.stderr
    return (root / "understood.yaml").read_text()


@pytest.mark.parametrize("version", VERSIONS)
def test_the_kubeadm_of_the_lab_says_its_version(version: str) -> None:
    said = subprocess.run([str(tool("kubeadm", version)), "version", "-o", "short"], capture_output=True, text=True)
    assert said.stdout.strip() == f"v{version}"
    assert parse(said.stdout).series == parse(version).series


@pytest.mark.parametrize("name", SETTINGS)
def test_what_initialises_a_cluster_is_understood(tmp_path: Path, name: str) -> None:
    said = SETTINGS[name]
    text = migrated(tmp_path, initialise(said))
    assert f"kubernetesVersion: v{VERSION}" in text and "name: rack1-07" in text
    assert f"controlPlaneEndpoint: {said.endpoint or '192.168.1.20:6443'}" in text
    assert f"podSubnet: {said.pod_cidr}" in text and f"serviceSubnet: {said.service_cidr}" in text
    assert all(f"- {san}\n" in text for san in said.extra_sans)
    assert all(label in text for label in said.labels)
    assert f"ttl: {round(said.token_ttl) // 3600}h" in text or f"ttl: {round(said.token_ttl) // 60}m" in text
    if said.image_repository:
        assert f"imageRepository: {said.image_repository}" in text
    effects = re.findall(r"^  - effect: (\w+)\n    key: (\S+)", text, re.M)
    if said.taints is None:
        assert effects == [("NoSchedule", "node-role.kubernetes.io/master")], "kubeadm's own"
    else:
        assert effects == [(taint.rpartition(":")[2], re.split("[=:]", taint)[0]) for taint in said.taints]


def test_a_slow_node_gets_more_time(tmp_path: Path) -> None:
    text = migrated(tmp_path, initialise(machine=replace(HERE, slow=2.5)))
    assert "timeoutForControlPlane: 10m0s" in text
    assert kubeadmconfig.founded_by(text).lease == 38, "who joins reads it from what kubeadm keeps"
    done = kubeadm(tmp_path, "init", "phase", "control-plane", "all", "--config=/given.yaml")
    assert done.returncode == 0, done.stderr
    for pod in ("kube-scheduler", "kube-controller-manager"):
        manifest = (tmp_path / f"etc/kubernetes/manifests/{pod}.yaml").read_text()
        assert all(f"- --leader-elect-{word}\n" in manifest
                   for word in ("lease-duration=38s", "renew-deadline=25s", "retry-period=5s")), manifest


@pytest.mark.parametrize("control_plane", [False, True])
@pytest.mark.parametrize("slow", [1.0, 2.0])
def test_what_joins_a_cluster_is_understood(tmp_path: Path, control_plane: bool, slow: float) -> None:
    said = replace(PLAIN, labels=("disk=ssd",), taints=("a=b:NoSchedule",))
    text = migrated(tmp_path, kubeadmconfig.join(said, kubeadm=parse(VERSION), secret=SECRET,
                                                 control_plane=control_plane, machine=replace(HERE, slow=slow)))
    assert "apiServerEndpoint: cluster.example.org:6443" in text and "token: abcdef.0123456789abcdef" in text
    assert f"- sha256:{'ab' * 32}" in text and "disk=ssd" in text and "key: a" in text
    assert (f"certificateKey: {'0f' * 32}" in text) is control_plane
    assert f"timeout: {5 * int(slow)}m0s" in text


def test_the_next_version_understands_the_same(tmp_path: Path) -> None:
    """The stand-in: what it adds is its number, so this holds the agent's choice of words, not kubeadm's."""
    text = migrated(tmp_path, initialise(version=STAND_IN), version=STAND_IN)
    assert "kubernetesVersion: v1.21.0" in text


def phases(root: Path, text: str) -> None:
    (root / "given.yaml").write_text(text)
    for phase in PHASES:
        done = kubeadm(root, "init", "phase", *phase, "--config=/given.yaml")
        assert done.returncode == 0, f"{' '.join(phase)}: {done.stderr}"


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fresh")
    phases(root, initialise(replace(PLAIN, endpoint="cluster.example.org:6443", extra_sans=("public.example.org",))))
    return root


@pytest.fixture(scope="module")
def again(fresh: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same node, reinstalled: only what is kept is there, and its address is another one."""
    root = tmp_path_factory.mktemp("again")
    for name in KEPT:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(fresh / name, root / name)
    phases(root, initialise(replace(PLAIN, endpoint="cluster.example.org:6443"),
                            machine=replace(HERE, ip="192.168.1.21")))
    return root


def read(root: Path, name: str) -> certificate.Certificate:
    return certificate.read((root / "etc/kubernetes/pki" / name).read_bytes())


@pytest.mark.slow
def test_a_fresh_root_gets_everything(fresh: Path) -> None:
    assert all((fresh / name).is_file() for name in KEPT)
    manifest = (fresh / "etc/kubernetes/manifests/kube-apiserver.yaml").read_text()
    assert "--advertise-address=192.168.1.20" in manifest
    assert b"public.example.org" in certificate_text(fresh / "etc/kubernetes/pki/apiserver.crt")
    assert "https://cluster.example.org:6443" in (fresh / "etc/kubernetes/admin.conf").read_text()


@pytest.mark.slow
def test_kept_authorities_are_used_and_leaves_are_made_anew(fresh: Path, again: Path) -> None:
    for name in KEPT:
        assert (again / name).read_bytes() == (fresh / name).read_bytes(), name
    for leaf, ca in (("apiserver.crt", "ca.crt"), ("front-proxy-client.crt", "front-proxy-ca.crt"),
                     ("etcd/server.crt", "etcd/ca.crt"), ("apiserver-etcd-client.crt", "etcd/ca.crt")):
        assert read(again, leaf).issuer == read(fresh, ca).subject, leaf
        assert read(again, leaf).public_key != read(fresh, leaf).public_key, leaf
    assert b"192.168.1.21" in certificate_text(again / "etc/kubernetes/pki/apiserver.crt")
    assert "--advertise-address=192.168.1.21" in (again / "etc/kubernetes/manifests/kube-apiserver.yaml").read_text()
    assert "192.168.1.21:2380" in (again / "etc/kubernetes/manifests/etcd.yaml").read_text()


@pytest.mark.slow
def test_leaves_of_another_address_would_be_taken_as_they_are(fresh: Path, tmp_path: Path) -> None:
    """Why leaves are not kept: this kubeadm says nothing, and nobody can reach the API server. Later ones refuse."""
    shutil.copytree(fresh / "etc", tmp_path / "etc")
    (tmp_path / "given.yaml").write_text(initialise(machine=replace(HERE, ip="192.168.1.21")))
    done = kubeadm(tmp_path, "init", "phase", "certs", "apiserver", "--config=/given.yaml")
    assert done.returncode == 0 and "Using existing apiserver certificate" in done.stdout, done.stderr
    assert b"192.168.1.21" not in certificate_text(tmp_path / "etc/kubernetes/pki/apiserver.crt")


@pytest.mark.slow
def test_the_hash_of_the_authority_is_the_one_that_kubeadm_asks_for(fresh: Path) -> None:
    """By openssl, as kubeadm's documentation computes it."""
    ca = fresh / "etc/kubernetes/pki/ca.crt"
    key = subprocess.run(["openssl", "x509", "-pubkey", "-noout", "-in", str(ca)], check=True, capture_output=True)
    der = subprocess.run(["openssl", "pkey", "-pubin", "-outform", "der"], input=key.stdout, check=True,
                         capture_output=True)
    digest = subprocess.run(["openssl", "dgst", "-sha256", "-r"], input=der.stdout, check=True, capture_output=True)
    assert certificate.ca_hashes(ca.read_bytes()) == (f"sha256:{digest.stdout.split()[0].decode()}",)


@pytest.mark.slow
def test_a_rehearsal_of_the_whole(tmp_path: Path) -> None:
    """`kubeadm init --dry-run`. Its checks of the machine are not about the configuration."""
    (tmp_path / "given.yaml").write_text(initialise(SETTINGS["taints"]))
    done = kubeadm(tmp_path, "init", "--dry-run", "--config=/given.yaml", "--ignore-preflight-errors=all")
    assert done.returncode == 0, done.stderr
    assert "Your Kubernetes control-plane has initialized successfully" in done.stdout


def certificate_text(path: Path) -> bytes:
    return subprocess.run(["openssl", "x509", "-noout", "-text", "-in", str(path)], check=True,
                          capture_output=True).stdout
