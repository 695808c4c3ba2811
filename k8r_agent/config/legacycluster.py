"""What variables.cfg of the shell version says about the cluster, in today's settings."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping

from k8r_agent.config.fragments import Entry
from k8r_agent.errors import ConfigError
from k8r_agent.model.secrets import redact

JOIN = "KUBEADM_JOIN_STRING"
NAMES = ("CONTROL_PLANE_ENDPOINT", "TOKEN_TTL", "POD_NETWORK_CIDR", "CNI_TYPE", "CALICO_VERSION", "INSECURE_REGISTRY",
         JOIN)
_GO_DURATION = re.compile(r"(?=\d)(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_JOIN_FLAGS = {"--token": "join_token", "--discovery-token": "join_token", "--certificate-key": "certificate_key",
               "--discovery-token-ca-cert-hash": "ca_cert_hashes"}
_SWITCHES = ("--control-plane", "--experimental-control-plane")

Found = Iterator[Entry | ConfigError | str]


def translate(variables: Mapping[str, Entry]) -> Found:
    """Settings, mistakes, and remarks, of the variables that are set. The join string comes last: where it says
    to join is newer than the endpoint in the same file."""
    simple = {"CONTROL_PLANE_ENDPOINT": "endpoint", "POD_NETWORK_CIDR": "pod_cidr"}
    for name, key in simple.items():
        if name in variables:
            yield _entry(variables[name], key, str(variables[name].value))
    if "INSECURE_REGISTRY" in variables:
        yield _entry(variables["INSECURE_REGISTRY"], "insecure_registries", [variables["INSECURE_REGISTRY"].value])
    if "TOKEN_TTL" in variables:
        yield _token_ttl(variables["TOKEN_TTL"])
    yield from _network(variables)
    if JOIN in variables:
        yield from join_command(variables[JOIN])


def _entry(said: Entry, key: str, value: object) -> Entry:
    return Entry(section="kubernetes", key=key, value=value, where=said.where)


def _token_ttl(said: Entry) -> Entry | ConfigError | str:
    text = str(said.value)
    match = _GO_DURATION.fullmatch(text)
    if text == "0" or (match and not any(int(part or 0) for part in match.groups())):
        return (f"{said.where}: TOKEN_TTL = {text!r} would make tokens that never expire; kubernetes.token_ttl keeps "
                "its default")
    if not match:
        return ConfigError(f"TOKEN_TTL: {text!r} is not a duration", where=said.where,
                           hint="write for example 24h0m0s")
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return _entry(said, "token_ttl", f"{hours * 3600 + minutes * 60 + seconds}s")


def _network(variables: Mapping[str, Entry]) -> Found:
    """k8r took calico for every word but two, and 3.25.1 for every calico without a version."""
    kind = variables.get("CNI_TYPE")
    name = str(kind.value) if kind else "calico"
    if kind and name == "weave":
        yield ConfigError("CNI_TYPE: weave cannot be installed any more", where=kind.where,
                          why="the server that handed out its manifest is gone",
                          hint='write CNI_TYPE="calico", or set kubernetes.cni_manifest in k8r.toml')
        return
    if kind and name not in ("calico", "flannel"):
        yield f"{kind.where}: CNI_TYPE = {name!r} means calico, as it did for k8r"
        name = "calico"
    if kind:
        yield _entry(kind, "cni", name)
    version = variables.get("CALICO_VERSION")
    if version and name == "calico":
        yield _entry(version, "cni_version", str(version.value))


def join_command(said: Entry) -> Found:
    """`kubeadm join HOST:PORT --token … --discovery-token-ca-cert-hash sha256:…`, never run."""
    try:
        words = shlex.split(str(said.value).replace("\\\n", " "))
    except ValueError:
        yield _not_a_join(said)
        return
    while words[:1] == ["sudo"]:
        words = words[1:]
    if len(words) < 3 or words[0].rsplit("/", 1)[-1] != "kubeadm" or words[1] != "join":
        yield _not_a_join(said)
        return
    found: dict[str, list[str]] = {}
    ignored: list[str] = []
    for flag, value in _flags(words[2:]):
        if not flag:
            found.setdefault("endpoint", []).append(value)
        elif flag in _JOIN_FLAGS:
            found.setdefault(_JOIN_FLAGS[flag], []).append(value)
        elif flag in _SWITCHES:
            yield Entry(section="node", key="role", value="control-plane", where=said.where)
        else:
            ignored.append(flag)
    for key, values in found.items():
        yield _entry(said, key, values if key == "ca_cert_hashes" else values[-1])
    if ignored:
        yield f"{said.where}: {JOIN}: {', '.join(map(redact, ignored))} is not used"


def _not_a_join(said: Entry) -> ConfigError:
    return ConfigError(f"{JOIN} is not a `kubeadm join` command", where=said.where,
                       hint="`kubeadm token create --print-join-command` on a control-plane node prints one")


def _flags(words: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(flag, value) pairs; ("", word) for what stands alone."""
    queue = list(words)
    while queue:
        word = queue.pop(0)
        flag, equals, value = word.partition("=")
        if not word.startswith("-"):
            yield "", word
        elif equals or flag in _SWITCHES or not queue or queue[0].startswith("-"):
            yield flag, value
        else:
            yield flag, queue.pop(0)
