"""etcd's static pod as kubeadm writes it, and what etcdctl says of its members."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from k8r_agent.ports.commands import Result


def static_pod(pod: str, version: str, *, name: str, address: str) -> bytes:
    """Of any static pod of a control plane."""
    arguments = (f"--name={name}", f"--initial-advertise-peer-urls=https://{address}:2380") if pod == "etcd" else ()
    command = "".join(f"    - {word}\n" for word in (pod, *arguments))
    return (f"spec:\n  containers:\n  - image: registry.k8s.io/{pod}:v{version}\n    command:\n{command}").encode()


def etcdctl(args: Sequence[str], members: Mapping[str, tuple[str, bool]], *, slow: float = 0.0) -> Result:
    """`members`: name → address, and whether it is well. The first is this node's. `slow`: seconds that an answer
    takes; etcdctl waits five of them, unless it is told otherwise."""
    told = [word.partition("=")[2] for word in args if word.startswith("--command-timeout=")]
    if slow > float((told or ["5s"])[0].removesuffix("s")):
        return Result(1, "", "Error: context deadline exceeded")
    numbered = list(enumerate(members.items(), 11))
    if list(args[:2]) == ["member", "list"]:
        return Result(0, json.dumps({"members": [
            {"ID": number, "name": name, "peerURLs": [f"https://{address}:2380"],
             "clientURLs": [f"https://{address}:2379"]} for number, (name, (address, _)) in numbered]}), "")
    if list(args[:2]) == ["endpoint", "health"]:
        found = [{"endpoint": f"https://{address}:2379", "health": well, "error": "" if well else "no answer"}
                 for _, (_, (address, well)) in numbered]
        return Result(int(not all(well for _, well in members.values())), json.dumps(found), "")
    raise AssertionError(f"this etcd knows no {args}")
