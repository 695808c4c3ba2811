"""etcd's members: who they are, whether one may be missing for a while, and what a snapshot says. Pure.

Formats are those of `etcdctl -w json`, 3.4 to 3.6.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

# etcdctl alone waits five seconds, and two for a connection: right after a boot, a slow node takes longer to answer.
PATIENT = ("--command-timeout=30s", "--dial-timeout=30s")
_ENDPOINT = re.compile(r"^https?://")


@dataclass(frozen=True, kw_only=True)
class Member:
    """`id` in hexadecimal, as `etcdctl member remove` wants it. A member that never started has no name and no
    client URLs."""

    id: str
    name: str = ""
    peer_urls: tuple[str, ...] = ()
    client_urls: tuple[str, ...] = ()
    learner: bool = False

    @property
    def started(self) -> bool:
        return bool(self.name)

    def __str__(self) -> str:
        return self.name or f"{self.id} ({', '.join(self.peer_urls) or 'no address'}, never started)"


def members(text: str) -> tuple[Member, ...]:
    """Of `member list -w json`. Raises ValueError for anything else."""
    try:
        return tuple(_member(item) for item in json.loads(text)["members"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a list of members ({type(error).__name__}: {error})"[:200]) from None


def _member(item: dict[str, Any]) -> Member:
    return Member(id=f"{int(item['ID']):x}", name=str(item.get("name", "")), learner=item.get("isLearner") is True,
                  peer_urls=tuple(map(str, item.get("peerURLs") or ())),
                  client_urls=tuple(map(str, item.get("clientURLs") or ())))


def unhealthy(text: str) -> dict[str, str]:
    """Of `endpoint health --cluster -w json`: client URL → why. Raises ValueError."""
    try:
        return {str(item["endpoint"]): str(item.get("error") or "not healthy")
                for item in json.loads(text) if item.get("health") is not True}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a list of endpoints ({type(error).__name__}: {error})"[:200]) from None


def mine(found: Sequence[Member], *, name: str, address: str) -> Member | None:
    """This node's member: by its peer URL, and by its name where it has started. A member of the name at another
    address, or of the address under another name, is somebody else's."""
    for member in found:
        if address in map(host, member.peer_urls) and member.name in ("", name):
            return member
    return None


def host(url: str) -> str:
    """`https://[fd00::1]:2380` → `fd00::1`."""
    rest = _ENDPOINT.sub("", url).split("/")[0]
    if rest.startswith("["):
        return rest[1:].split("]")[0]
    return rest.rsplit(":", 1)[0] if ":" in rest else rest


@dataclass(frozen=True, kw_only=True)
class Quorum:
    """`single`: this node's member is the only one, and its data stays with it. `why` is "" when it may go."""

    single: bool
    voters: int
    why: str = ""
    bad: tuple[str, ...] = field(default=())

    @property
    def ok(self) -> bool:
        return not self.why


def quorum(found: Sequence[Member], ill: dict[str, str], me: Member | None) -> Quorum:
    """Whether the others still have a majority, with one to spare for nobody, while `me` is away: at least three
    voters, all others healthy, no learner that is just being let in. Two voters have no majority without one."""
    voters = [m for m in found if not m.learner]
    others = [m for m in found if me is None or m.id != me.id]
    if me is not None and not others:
        return Quorum(single=True, voters=1)
    bad = tuple(_ill(m, ill) for m in others if _ill(m, ill))
    why = ""
    if me is None:
        why = "this node is no member"
    elif len(voters) < 3:
        why = f"etcd has {len(voters)} voting members; without this one there is no majority"
    elif any(m.learner for m in others):
        why = "a member is just being added: " + ", ".join(str(m) for m in others if m.learner)
    elif bad:
        why = "not healthy: " + "; ".join(bad)
    return Quorum(single=False, voters=len(voters), why=why, bad=bad)


def _ill(member: Member, ill: dict[str, str]) -> str:
    if not member.started:
        return f"{member}"
    return next((f"{member}: {ill[url]}" for url in member.client_urls if url in ill), "")


@dataclass(frozen=True, kw_only=True)
class Status:
    """Of a snapshot: `revision` of the store, number of `keys`, `hash` over them."""

    revision: int
    keys: int
    hash: int


def status(text: str) -> Status:
    """Of `snapshot status -w json`. Raises ValueError, also for an empty store: no cluster has one."""
    try:
        found = json.loads(text)
        read = Status(revision=int(found["revision"]), keys=int(found["totalKey"]), hash=int(found["hash"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"not a snapshot's status ({type(error).__name__}: {error})"[:200]) from None
    if read.keys < 1:
        raise ValueError("there is no key in it")
    return read


def restore_args(snapshot: str, directory: str, *, name: str, peer_url: str) -> list[str]:
    """Arguments of etcdctl. A cluster of this one member: others would have to join it anew."""
    return ["snapshot", "restore", snapshot, f"--data-dir={directory}", f"--name={name}",
            f"--initial-cluster={name}={peer_url}", f"--initial-advertise-peer-urls={peer_url}"]


@dataclass(frozen=True, kw_only=True)
class StaticPod:
    """What an etcd's static pod says of its member."""

    name: str
    peer_url: str
    data: str


def static_pod(manifest: str) -> StaticPod:
    """From the arguments in kubeadm's `etcd.yaml`. Raises ValueError."""
    found = {key: re.search(rf"--{key}=([^\s\"']+)", manifest)
             for key in ("name", "initial-advertise-peer-urls", "data-dir")}
    name, peer, data = found["name"], found["initial-advertise-peer-urls"], found["data-dir"]
    if name is None or peer is None:
        raise ValueError("it does not say the member's name and peer URL")
    return StaticPod(name=name[1], peer_url=peer[1].split(",")[0], data=data[1] if data else "/var/lib/etcd")
