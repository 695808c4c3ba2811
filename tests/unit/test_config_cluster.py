"""The section [kubernetes]: what is accepted, what is refused and how, and that no secret is ever shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from k8r_agent import config
from k8r_agent.config import clusterreaders as c
from k8r_agent.config.readers import Reader
from k8r_agent.model.secrets import redact
from tests.fakes.prompt import Prompt

TOKEN, KEY, HASH = "abcdef.0123456789abcdef", "0f" * 32, "sha256:" + "ab" * 32
JOIN = f'endpoint = "cp:6443"\njoin_token = "{TOKEN}"\nca_cert_hashes = ["{HASH}"]\n'


@pytest.mark.parametrize(("reader", "value", "expected"), [
    (c.endpoint, "cluster.local", "cluster.local:6443"), (c.endpoint, "10.0.0.1:7443", "10.0.0.1:7443"),
    (c.endpoint, "fd00::1", "[fd00::1]:6443"), (c.endpoint, "[fd00::1]:443", "[fd00::1]:443"),
    (c.registry, "10.0.0.1:5000", "10.0.0.1:5000"), (c.registry, "mirror.example.org", "mirror.example.org"),
    (c.san, "*.example.org", "*.example.org"), (c.san, "10.0.0.9", "10.0.0.9"),
    (c.token, TOKEN, TOKEN), (c.certificate_key, KEY, KEY), (c.ca_hash, HASH.upper().replace("SHA", "sha"), HASH),
    (c.ca_hash, "ab" * 32, HASH), (c.sha256, "AB" * 32, "ab" * 32), (c.token_ttl, "24h", 86400.0),
    (c.cidr, "10.244.0.0/16", "10.244.0.0/16"), (c.cidr, "10.244.0.0/16,fd00:1::/56", "10.244.0.0/16,fd00:1::/56"),
    (c.version, "v3.25.1", "3.25.1"), (c.manifest, "/srv/cni.yaml", "/srv/cni.yaml"),
    (c.manifest, "https://e.org/cni.yaml", "https://e.org/cni.yaml"),
    (c.image_repository, "registry.k8s.io", "registry.k8s.io"),
    (c.image_repository, "mirror.example.org:5000/k8s/v2", "mirror.example.org:5000/k8s/v2"),
    (c.label, "disk=ssd", "disk=ssd"), (c.label, "example.org/a=", "example.org/a="),
    (c.label, "node.kubernetes.io/instance-type=rpi4", "node.kubernetes.io/instance-type=rpi4"),
    (c.label, "topology.kubernetes.io/zone=a", "topology.kubernetes.io/zone=a"),
    (c.taint, "dedicated=storage:NoSchedule", "dedicated=storage:NoSchedule"), (c.taint, "a:NoExecute", "a:NoExecute"),
])
def test_good_values(reader: Reader, value: object, expected: object) -> None:
    assert reader(value) == expected


@pytest.mark.parametrize(("reader", "value", "says"), [
    (c.endpoint, "https://cp:6443", "without https://"), (c.endpoint, "cp:", "lacks the port"),
    (c.endpoint, "cp:99999", "not a port number"), (c.endpoint, "10.0.0.256", "not an IP address"),
    (c.endpoint, "[fd00::1", "not a host and port"), (c.endpoint, "CP", "not a host name"),
    (c.endpoint, "[fd00::g]:6443", "not an IP address"), (c.endpoint, 6443, "string"),
    (c.registry, "http://x", "not a|not an"), (c.san, "-x", "not a host name"),
    (c.token, TOKEN.upper(), "bootstrap token"), (c.token, "", "bootstrap token"), (c.token, 5, "bootstrap token"),
    (c.certificate_key, KEY[:-1], "certificate key"), (c.ca_hash, HASH[:-2], "cut off"), (c.sha256, "x", "SHA-256"),
    (c.token_ttl, "0s", "never expires"), (c.token_ttl, "365d", "never expires"), (c.token_ttl, 0, "no unit"),
    (c.cidr, "10.0.0.1/16", "host bits"), (c.cidr, "10.0.0.0/16,10.1.0.0/16", "at most one"),
    (c.version, "3.25", "not a version"), (c.manifest, "ftp://x/y", "absolute path"),
    (c.image_repository, "https://registry.k8s.io", "not a registry"), (c.image_repository, "a/B", "not a registry"),
    (c.label, "disk", "not a label"), (c.label, "node-role.kubernetes.io/worker=", "for itself"),
    (c.label, "kubernetes.io/foo=1", "own name space"), (c.label, "x.k8s.io/foo=1", "own name space"),
    (c.label, "a=b c", "not a label"), (c.label, "=b", "not the key"), (c.label, "/a=b", "not the key"),
    (c.taint, "a=b", "not a taint"), (c.taint, "a=b:Never", "not a taint"), (c.taint, ":NoSchedule", "not the key"),
])
def test_bad_values_say_what_would_do(reader: Reader, value: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        reader(value)


def load(tmp_path: Path, text: str) -> config.merge.Loaded:
    file = tmp_path / "etc/k8r/agent.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("[kubernetes]\n" + text)
    return config.read_all(tmp_path)


def test_taints_that_are_absent_differ_from_none_at_all(tmp_path: Path) -> None:
    assert load(tmp_path, "").settings.kubernetes.taints is None
    assert load(tmp_path, "taints = []\n").settings.kubernetes.taints == ()


@pytest.mark.parametrize(("text", "line", "says"), [
    (f'join_token = "{TOKEN}"\n', 2, "without kubernetes.endpoint and kubernetes.ca_cert_hashes"),
    (f'endpoint = "cp"\njoin_token = "{TOKEN}"\n', 3, "without kubernetes.ca_cert_hashes"),
    ('cni_manifest = "https://e.org/x.yaml"\n', 2, "without kubernetes.cni_sha256"),
    (f'cni_sha256 = "{KEY}"\n', 2, "without kubernetes.cni_manifest"),
    ('pod_cidr = "10.96.0.0/16"\n', 2, "overlap"),
    ('pod_cidr = "10.0.0.0/9"\nservice_cidr = "10.1.0.0/16"\n', 3, "overlap"),
])
def test_keys_that_contradict_each_other(tmp_path: Path, text: str, line: int, says: str) -> None:
    found = load(tmp_path, text)
    assert [str(p).split(": ")[0] for p in found.problems] == [f"{tmp_path}/etc/k8r/agent.toml:{line}"]
    assert says in str(found.problems[0]) and found.problems[0].hint


def test_a_secret_is_never_shown(tmp_path: Path) -> None:
    prompt = Prompt(tmp_path)
    prompt.configure(f'[kubernetes]\n{JOIN}certificate_key = "{KEY}"\n')
    for words in (["config", "show"], ["config", "show", "--json"], ["config", "check"], ["status"],
                  ["config", "show", "kubernetes.join_token"]):
        prompt.run(*words)
        assert TOKEN.split(".")[1] not in prompt.out + prompt.err and KEY not in prompt.out + prompt.err
    assert "set, not shown" in prompt.out or prompt.run("config", "show", "kubernetes.join_token") == 0
    assert prompt.json("config", "show")["settings"]["kubernetes"]["join_token"] is True


@pytest.mark.parametrize("text", [
    f"join_token = {TOKEN}\n", f'join_token = "{TOKEN}\n', f'join_token = ["{TOKEN}"]\n', f'join_token = "{TOKEN}x"\n',
    f"jointoken = {TOKEN}\n", f'join_tokn = "{TOKEN}"\n', f"certificate_key = '{KEY}\n", f"certificate_key {KEY}\n",
    f'join_token = "{TOKEN}"\n', f'certificate_key = ["{KEY}"]\n', f'certificate_key = "{KEY}0"\n',
])
def test_a_broken_secret_is_not_quoted(tmp_path: Path, text: str) -> None:
    problems = load(tmp_path, text).problems
    assert problems
    for problem in problems:
        assert "0123456789" not in f"{problem} {problem.hint}" and KEY[:20] not in f"{problem} {problem.hint}"


def test_redact() -> None:
    said = f"kubeadm join 10.0.0.1:6443 --token {TOKEN} --discovery-token-ca-cert-hash {HASH} --certificate-key {KEY}"
    assert redact(said) == ("kubeadm join 10.0.0.1:6443 --token abcdef.(secret) --discovery-token-ca-cert-hash "
                            f"{HASH} --certificate-key (secret)")
