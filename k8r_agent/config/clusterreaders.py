"""Readers of what only a cluster needs. Each raises ValueError with a sentence; those of secrets never quote them."""

from __future__ import annotations

import re

from k8r_agent.config.readers import duration, hostname, ip, path, source, text

API_PORT = 6443
TOKEN = r"[a-z0-9]{6}\.[a-z0-9]{16}"  # kubeadm's; also in a longer text
_HEX64 = r"[0-9a-f]{64}"
_NAME = r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
_VERSION = r"\d+\.\d+\.\d+"
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
# What a kubelet may call itself in Kubernetes' own name space; with any other such label it does not start
# (k8s.io/kubelet pkg/apis/well_known_labels.go).
_OWN_LABELS = (
    "kubernetes.io/hostname", "kubernetes.io/arch", "kubernetes.io/os", "beta.kubernetes.io/arch",
    "beta.kubernetes.io/os", "beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type",
    "failure-domain.beta.kubernetes.io/region", "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.kubernetes.io/region", "failure-domain.kubernetes.io/zone",
    "topology.kubernetes.io/region", "topology.kubernetes.io/zone",
)
_OWN_SPACES = ("kubelet.kubernetes.io", "node.kubernetes.io")


def host_port(value: object, *, port: int | None) -> str:
    """`host:port`; without a port, `port` is added. An IPv6 address needs brackets before a port."""
    word = text(value)
    host, given = _split(word)
    if given and not (given.isdecimal() and 0 < int(given) < 65536):
        raise ValueError(f"{given!r} in {word!r} is not a port number")
    if not _is_ip(host):
        hostname(host)
    number = int(given) if given else port
    shown = f"[{host}]" if ":" in host else host
    return f"{shown}:{number}" if number else shown


def _split(word: str) -> tuple[str, str]:
    if word.startswith("["):
        host, closed, rest = word[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            raise ValueError(f"{word!r} is not a host and port, such as [fd00::1]:6443")
        return host, rest[1:]
    if word.count(":") > 1:  # an IPv6 address without a port
        return word, ""
    host, colon, port = word.partition(":")
    if colon and not port:
        raise ValueError(f"{word!r} lacks the port number after ':'")
    return host, port


def _is_ip(host: str) -> bool:
    import ipaddress

    try:
        ipaddress.ip_address(host)
    except ValueError:
        if re.fullmatch(r"[0-9.]+", host) or ":" in host:
            raise ValueError(f"{host!r} is not an IP address") from None
        return False
    return True


def endpoint(value: object) -> str:
    word = text(value)
    if "://" in word or "/" in word:
        raise ValueError(f"{word!r} is not host:port; write it without https:// and without a path")
    return host_port(word, port=API_PORT)


def registry(value: object) -> str:
    return host_port(value, port=None)


def san(value: object) -> str:
    """A name or address that the API server's certificate is to hold; `*.` may begin a name."""
    word = text(value)
    if _is_ip(word):
        return ip(word)
    hostname(word.removeprefix("*."))
    return word


def token(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(TOKEN, value):
        raise ValueError("that is not a bootstrap token: six lower-case letters or digits, a full stop, sixteen more "
                         "(`kubeadm token create` on a control-plane node prints one)")
    return value


def certificate_key(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(_HEX64, value):
        raise ValueError("that is not a certificate key: 64 digits 0-9, a-f "
                         "(`kubeadm init phase upload-certs --upload-certs` on a control-plane node prints one)")
    return value


def ca_hash(value: object) -> str:
    word = text(value).lower()
    word = word if word.startswith("sha256:") else f"sha256:{word}"
    if not re.fullmatch(_HEX64, word.removeprefix("sha256:")):
        raise ValueError(f"{word!r} is not the hash of a CA's public key: sha256: and 64 digits 0-9, a-f "
                         "(cut off while copying?)")
    return word


def sha256(value: object) -> str:
    word = text(value).lower().removeprefix("sha256:")
    if not re.fullmatch(_HEX64, word):
        raise ValueError(f"{word!r} is not a SHA-256: 64 digits 0-9, a-f, as sha256sum prints")
    return word


def token_ttl(value: object) -> float:
    """Seconds. A token without an end would let whoever reads an old card into the cluster."""
    seconds = duration(value)
    if not 300 <= seconds <= 30 * 86400:
        raise ValueError(f"{value!r} is not between 5min and 30d; a token that never expires is not made")
    return seconds


def cidr(value: object) -> str:
    """One network, or one of each family separated by a comma (dual stack)."""
    import ipaddress

    networks = []
    for word in text(value).split(","):
        try:
            networks.append(ipaddress.ip_network(word.strip()))
        except ValueError as error:
            raise ValueError(f"{word!r} is not a network such as 172.30.0.0/16: {error}") from None
    if len(networks) > 2 or len({network.version for network in networks}) != len(networks):
        raise ValueError(f"{value!r}: at most one IPv4 and one IPv6 network")
    return ",".join(map(str, networks))


def version(value: object) -> str:
    word = text(value).removeprefix("v")
    if not re.fullmatch(_VERSION, word):
        raise ValueError(f"{word!r} is not a version such as 3.25.1")
    return word


def manifest(value: object) -> str:
    word = text(value)
    if word.startswith("/"):
        return path(word)
    if not re.match(r"https?://[^/\s]", word):
        raise ValueError(f"{word!r} is neither an absolute path nor an http:// or https:// address")
    return source(word)


def image_repository(value: object) -> str:
    """A registry with an optional path, as in front of `/kube-apiserver:v…`."""
    word = text(value)
    host, slash, rest = word.partition("/")
    if "://" in word or (slash and not re.fullmatch(r"[a-z0-9]+([._/-]+[a-z0-9]+)*", rest)):
        raise ValueError(f"{word!r} is not a registry such as registry.k8s.io or mirror.example.org:5000/k8s")
    return host_port(host, port=None) + slash + rest


def label(value: object) -> str:
    """`key=value` as a kubelet may give itself."""
    word = text(value)
    key, equals, content = word.partition("=")
    if not equals or (content and not re.fullmatch(_NAME, content)):
        raise ValueError(f"{word!r} is not a label such as disk=ssd")
    space = _key(key)
    if key.endswith("node-role.kubernetes.io") or space == "node-role.kubernetes.io":
        raise ValueError(f"{key!r} cannot be set by a node for itself; use kubectl label on a control-plane node")
    official = space in ("kubernetes.io", "k8s.io") or space.endswith((".kubernetes.io", ".k8s.io"))
    own = key in _OWN_LABELS or space in _OWN_SPACES or space.endswith(tuple(f".{name}" for name in _OWN_SPACES))
    if official and not own:
        raise ValueError(f"{key!r} is in Kubernetes' own name space, where a kubelet may not label itself; "
                         "use kubectl label on a control-plane node")
    return word


def taint(value: object) -> str:
    """`key=value:Effect`, `key:Effect`."""
    word = text(value)
    left, _, effect = word.rpartition(":")
    key, _, content = left.partition("=")
    if effect not in _EFFECTS or (content and not re.fullmatch(_NAME, content)):
        raise ValueError(f"{word!r} is not a taint such as dedicated=storage:NoSchedule "
                         f"(effects: {', '.join(_EFFECTS)})")
    _key(key)
    return word


def _key(key: str) -> str:
    """The name space of a label's or taint's key, "" for none. Raises ValueError for no key at all."""
    space, slash, name = key.rpartition("/")
    if not re.fullmatch(_NAME, name) or (slash and not space):
        raise ValueError(f"{key!r} is not the key of a label or taint, such as disk or example.org/disk")
    if slash:
        hostname(space)
    return space
