from __future__ import annotations

import re
from pathlib import Path

import pytest

from k8r_agent import config
from k8r_agent.config import legacy


@pytest.mark.parametrize(("raw", "value"), [
    ("plain", "plain"), ("'single $HOME'", "single $HOME"), ('"double"', "double"), ('"a"\'b\'c', "abc"),
    ("", ""), ('""', ""), ("v  # comment", "v"), ('"with # inside"', "with # inside"), (r'"a\"b\$c"', 'a"b$c'),
    ("http://example.org/x/", "http://example.org/x/"), ('"a\\\nb"', "ab"), ("'two\nlines'", "two\nlines"),
    ("24h0m0s", "24h0m0s"), ("10.244.0.0/16", "10.244.0.0/16"),
])
def test_values_as_a_shell_reads_them(raw: str, value: str) -> None:
    assert legacy.unquote(raw) == value


@pytest.mark.parametrize(("raw", "says"), [
    ("$(reboot)", "command substitution"), ("`reboot`", "command substitution"),
    ('"$(reboot)"', "command substitution"),
    ('"a`id`"', "command substitution"), ("$HOME/x", "another variable"), ('"${A}"', "another variable"),
    ("a; reboot", "quote the value"), ("a && b", "unexpected '&&'"), ("a|b", "quote the value"),
    ("a b", "quote the value"),
    ("*.img", "expand"), ("~/x", "expand"), ("{a,b}", "expand"), ("'open", "not closed"), ('"open', "not closed"),
    ("<(id)", "quote the value"), ("a\\ b", "quote the value"), ("$'x'", "another variable"),
])
def test_what_a_shell_would_run_or_replace_is_refused(raw: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        legacy.unquote(raw)


HASH = "sha256:" + "ab" * 32
TOKEN = "abcdef.0123456789abcdef"
EXAMPLE = (f"# k8r\nIMAGE=ubuntu.img\nexport K8S_VERSION=1.29.3\nTOKEN_TTL=\"24h0m0s\"\n"
           'CONTROL_PLANE_ENDPOINT="cluster.local"\nPOD_NETWORK_CIDR="172.31.0.0/16"\nCNI_TYPE=flannel\n'
           'CALICO_VERSION=\nINSECURE_REGISTRY="1.1.1.1:5000"\n'
           f"KUBEADM_JOIN_STRING='kubeadm join 10.0.0.1:6443 \\\n --token {TOKEN} "
           f"--discovery-token-ca-cert-hash {HASH} --v=5'\n"
           'HTTP_IMAGE_URL="http://example.org/k8r/image.img.xz"\nMINE=1\n')


def node(tmp_path: Path, text: str) -> config.merge.Loaded:
    file = tmp_path / config.LEGACY
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return config.read_all(tmp_path)


def test_every_setting_of_a_legacy_file_counts(tmp_path: Path) -> None:
    found = node(tmp_path, EXAMPLE)
    k8s = found.settings.kubernetes
    assert not found.problems
    assert found.settings.update.source == "http://example.org/k8r/"
    assert (k8s.endpoint, k8s.join_token, k8s.ca_cert_hashes) == ("10.0.0.1:6443", TOKEN, (HASH,))
    assert (k8s.token_ttl, k8s.pod_cidr, k8s.cni) == (86400, "172.31.0.0/16", "flannel")
    assert k8s.insecure_registries == ("1.1.1.1:5000",)
    assert not k8s.initialise and found.settings.node.role == "auto"
    assert found.origin["kubernetes.join_token"] == f"{tmp_path / config.LEGACY}:10"
    text = "\n".join(found.notes)
    assert "K8S_VERSION says what an image is built with" in text
    assert TOKEN.split(".")[1] not in text and "--v is not used" in text
    assert "MINE is not a variable of k8r" in text
    assert "IMAGE belongs to the build host" in text
    assert "allow_legacy" in text


def test_without_a_join_string_the_node_may_make_a_cluster(tmp_path: Path) -> None:
    found = node(tmp_path, "K8S_VERSION=1.33.0\nCONTROL_PLANE_ENDPOINT=cluster.local\nTOKEN_TTL=0\n"
                           'KUBEADM_JOIN_STRING=""\nCNI_TYPE=calico\nCALICO_VERSION="3.25.1"\n')
    k8s = found.settings.kubernetes
    assert not found.problems
    assert k8s.initialise and k8s.endpoint == "cluster.local:6443"
    assert k8s.token_ttl == 86400 and "never expire" in "\n".join(found.notes)
    assert (k8s.cni, k8s.cni_version) == ("calico", "3.25.1")


@pytest.mark.parametrize(("line", "says"), [
    ("KUBEADM_JOIN_STRING=$(cat /x)", "substitution"), ("KUBEADM_JOIN_STRING='kubeadm join", "not closed"),
    ("KUBEADM_JOIN_STRING='reboot now'", "not a `kubeadm join`"),
    (f"KUBEADM_JOIN_STRING='kubeadm join h:1 --token {TOKEN[:-1]} --discovery-token-ca-cert-hash {HASH}'", "_token"),
    (f"KUBEADM_JOIN_STRING='kubeadm join h:1 --token {TOKEN}'", "without kubernetes.ca_cert_hashes"),
    (f"KUBEADM_JOIN_STRING='kubeadm join h:0 --token {TOKEN} --discovery-token-ca-cert-hash {HASH}'", "endpoint"),
    ("CNI_TYPE=weave", "weave"), ("TOKEN_TTL=1y", "not a duration"), ("TOKEN_TTL=8760h", "between 5min and 30d"),
    ("POD_NETWORK_CIDR=10.0.0.0/33", "not a network"), ("CONTROL_PLANE_ENDPOINT=https://x", "host:port"),
    ("INSECURE_REGISTRY=http://x", "INSECURE_REGISTRY|insecure_registries"),
])
def test_a_mistake_has_its_line_and_allows_nobody_to_make_a_cluster(tmp_path: Path, line: str, says: str) -> None:
    found = node(tmp_path, f"K8S_VERSION=1.33.0\n{line}\n")
    assert any(re.search(says, f"{p} {p.hint}") and str(p).startswith(f"{tmp_path / config.LEGACY}:2: ")
               for p in found.problems), found.problems
    assert TOKEN[:-1] not in str(found.problems)
    if "JOIN" in line:
        assert not found.settings.kubernetes.initialise


def test_the_join_string_of_a_control_plane_node(tmp_path: Path) -> None:
    found = node(tmp_path, f"KUBEADM_JOIN_STRING='sudo kubeadm join h:6443 --token={TOKEN} "
                           f"--discovery-token-ca-cert-hash {HASH} --control-plane --certificate-key {'0f' * 32}'\n")
    assert not found.problems
    assert found.settings.node.role == "control-plane"
    assert found.settings.kubernetes.certificate_key == "0f" * 32


def test_commands_in_it_are_errors_with_a_line_and_never_run(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    file = tmp_path / config.LEGACY
    file.parent.mkdir(parents=True)
    file.write_text(f"K8S_VERSION=$(touch {witness})\ntouch {witness}\nTOKEN_TTL=`touch {witness}`\n"
                    "HTTP_IMAGE_URL='http://example.org/'\n")
    found = config.read_all(tmp_path)
    assert [str(p).split(": ")[0] for p in found.problems] == [f"{file}:{line}" for line in (1, 2, 3)]
    assert found.settings.update.source == "http://example.org/"
    assert not found.settings.update.allow_legacy
    assert not witness.exists()


def test_new_files_win_over_it(tmp_path: Path) -> None:
    file = tmp_path / config.LEGACY
    file.parent.mkdir(parents=True)
    file.write_text("HTTP_IMAGE_URL=http://old.example/\n")
    new = tmp_path / "etc/k8r/agent.toml"
    new.parent.mkdir(parents=True)
    new.write_text('[update]\nsource = "http://new.example/"\n')
    assert config.load(tmp_path).update.source == "http://new.example/"


def test_a_file_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    assert "cannot be read" in str(legacy.read(tmp_path).problems[0])
    file = tmp_path / "v"
    file.write_bytes(b"A=\xff")
    assert "UTF-8" in str(legacy.read(file).problems[0])
    file.write_bytes(b"#" * (300 << 10))
    assert "larger" in str(legacy.read(file).problems[0])
