"""What must hold between keys. A value that cannot work is dropped, so that what stands beside it still counts."""

from __future__ import annotations

from collections.abc import Iterator

from k8r_agent.config.settings import Settings
from k8r_agent.errors import ConfigError

Values = dict[str, object]
Origin = dict[str, str]


def conflicts(values: Values, origin: Origin) -> list[ConfigError]:
    """The problems found; `values` and `origin` lose what they are about."""
    found: list[ConfigError] = []
    for check in (_gateway, _manifest, _join, _networks):
        for name, what, hint in list(check(values)):
            found.append(ConfigError(what, where=origin.get(name, ""), hint=hint))
            values.pop(name, None)
            origin.pop(name, None)
    return found


def _gateway(values: Values) -> Iterator[tuple[str, str, str]]:
    gateway, address = str(values.get("network.gateway", "")), str(values.get("network.address", ""))
    if not gateway:
        return
    if not address:
        yield "network.gateway", "network.gateway is set without network.address", "set both, or neither for DHCP"
        return
    import ipaddress

    network, hop = ipaddress.ip_interface(address).network, ipaddress.ip_address(gateway)
    if hop.version != network.version or (hop not in network and not hop.is_link_local):
        yield ("network.gateway", f"network.gateway {gateway} is not in the network {network} of network.address", "")


def _manifest(values: Values) -> Iterator[tuple[str, str, str]]:
    manifest, digest = str(values.get("kubernetes.cni_manifest", "")), values.get("kubernetes.cni_sha256")
    if manifest.startswith("http") and not digest:
        yield ("kubernetes.cni_manifest", "kubernetes.cni_manifest is a URL without kubernetes.cni_sha256",
               f"curl -fsSL {manifest} | sha256sum, and read what you got")
    if digest and not manifest:
        yield ("kubernetes.cni_sha256", "kubernetes.cni_sha256 is set without kubernetes.cni_manifest",
               "set both, or neither")


def _join(values: Values) -> Iterator[tuple[str, str, str]]:
    if not values.get("kubernetes.join_token"):
        return
    lacking = [key for key in ("endpoint", "ca_cert_hashes") if not values.get(f"kubernetes.{key}")]
    if lacking:
        yield ("kubernetes.join_token",
               f"kubernetes.join_token is set without {' and '.join(f'kubernetes.{key}' for key in lacking)}",
               "`kubeadm token create --print-join-command` on a control-plane node prints all three")


def _networks(values: Values) -> Iterator[tuple[str, str, str]]:
    import ipaddress

    default = Settings().kubernetes
    pods = str(values.get("kubernetes.pod_cidr", default.pod_cidr))
    services = str(values.get("kubernetes.service_cidr", default.service_cidr))
    if "kubernetes.pod_cidr" not in values and "kubernetes.service_cidr" not in values:
        return
    for pod in map(ipaddress.ip_network, filter(None, pods.split(","))):
        for service in map(ipaddress.ip_network, services.split(",")):
            if pod.version == service.version and pod.overlaps(service):
                name = "kubernetes.service_cidr" if "kubernetes.service_cidr" in values else "kubernetes.pod_cidr"
                yield name, f"the networks of pods {pod} and of services {service} overlap", "take another one"
                return
