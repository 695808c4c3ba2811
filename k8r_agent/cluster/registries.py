"""containerd's files for registries that are reached without TLS (containerd docs/hosts.md)."""

from __future__ import annotations

import json

DIRECTORY = "/etc/containerd/certs.d"


def files(insecure: tuple[str, ...]) -> dict[str, str]:
    """Path → content, one per registry. They count when containerd's `config_path` is that directory."""
    return {f"{DIRECTORY}/{registry}/hosts.toml": _hosts(registry) for registry in insecure}


def _hosts(registry: str) -> str:
    place = json.dumps(f"http://{registry}")  # TOML's basic strings are JSON's
    return f'server = {place}\n\n[host.{place}]\ncapabilities = ["pull", "resolve"]\nskip_verify = true\n'
