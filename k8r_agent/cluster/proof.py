"""Can the node come back into its cluster? One line for each thing that has to hold, before anything is changed. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from k8r_agent.cluster import certificate
from k8r_agent.cluster.answer import Answer, Kind
from k8r_agent.cluster.api import HINTS
from k8r_agent.cluster.drain import Elsewhere, Pod
from k8r_agent.cluster.skew import Refusal
from k8r_agent.errors import K8rError, Refused
from k8r_agent.model.etcd import Quorum
from k8r_agent.model.units import format_size

DAY = 86400.0
ENOUGH = 1 * DAY  # that a credential must still be good for: longer than a reinstall with all its tries


@dataclass(frozen=True, kw_only=True)
class Line:
    """`name` is stable, for machines; `text` says what was found, `hint` what to do when it is not `ok`."""

    name: str
    ok: bool
    text: str
    hint: str = ""


def refusal(lines: Iterable[Line]) -> Refused | None:
    """Of the lines that fail, None when there is none."""
    bad = [line for line in lines if not line.ok]
    if not bad:
        return None
    hint = "; ".join(dict.fromkeys(b.hint for b in bad if b.hint))
    return Refused("the node might not come back into its cluster", hint=hint or "--force reinstalls it all the same",
                   why="; ".join(f"{b.name}: {b.text}" for b in bad))


def unknown(name: str, error: K8rError) -> Line:
    """What could not be found out is not proved."""
    return Line(name=name, ok=False, text=str(error), hint=error.hint)


def api(found: Answer) -> Line:
    if found.ok:
        version = (found.body or {}).get("gitVersion", "")
        return Line(name="api", ok=True, text=f"the API server answers ({version})" if version else "it answers")
    return Line(name="api", ok=False, text=found.text or found.kind.value, hint=HINTS.get(found.kind, ""))


def ca(published: bytes, own: bytes, *, answered: bool) -> Line:
    """`published` is b"" where the cluster does not tell strangers; kubectl has compared then, if it `answered`."""
    try:
        mine = certificate.ca_hashes(own)
        theirs = certificate.ca_hashes(published) if published else ()
        if not mine:
            raise ValueError("there is no certificate in it")
    except ValueError as error:
        return Line(name="ca", ok=False, text=f"the CA certificate cannot be read: {error}", hint="k8r-recovery(7)")
    if theirs and not set(mine) & set(theirs):
        return Line(name="ca", ok=False, text=f"the cluster's CA is {theirs[0]}, the node's is {mine[0]}",
                    hint="this node belongs to another cluster, or the cluster was made anew under its address")
    if not theirs and not answered:
        return Line(name="ca", ok=False, text="nobody says which CA the cluster has", hint=HINTS[Kind.UNREACHABLE])
    return Line(name="ca", ok=True, text=f"the cluster's CA is the one this node knows ({mine[0][:19]}…)")


def credential(pem: bytes, now: float, *, what: str = "the node's credential") -> Line:
    try:
        found = certificate.read(pem)
    except ValueError as error:
        return Line(name="credential", ok=False, text=f"{what} cannot be read: {error}", hint="k8r-recovery(7)")
    if now < found.not_before:
        return Line(name="credential", ok=False, text=f"{what} is not good yet: {_days(found.not_before - now)} to go",
                    hint="is the clock right?")
    left = found.not_after - now
    if left < ENOUGH:
        text = f"{what} expires in {max(0.0, left) / 3600:.0f} h" if left > 0 else f"{what} expired {_days(-left)} ago"
        return Line(name="credential", ok=False, text=text, hint="the kubelet renews it while it runs and reaches the "
                    "API server: journalctl -u kubelet")
    return Line(name="credential", ok=True, text=f"{what} is good for {_days(left)}")


def skew(found: Sequence[Refusal], image: str, running: str) -> Line:
    if not found:
        return Line(name="skew", ok=True, text=f"Kubernetes {image} may follow {running}")
    return Line(name="skew", ok=False, text="; ".join(f"{r.why} [{r.rule}]" for r in found),
                hint="; ".join(dict.fromkeys(r.hint for r in found)))


def quorum(found: Quorum, *, kept: bool) -> Line:
    if found.single:
        if kept:
            return Line(name="quorum", ok=True, text="the only etcd member; its data stays on the state partition")
        return Line(name="quorum", ok=False, text="the only etcd member, and its data is not on the state partition",
                    hint="k8r-recovery(7): take a snapshot, and move the data")
    if found.ok:
        text = f"{found.voters - 1} of {found.voters} etcd members stay, all healthy"
        return Line(name="quorum", ok=True, text=text)
    return Line(name="quorum", ok=False, text=found.why, hint="heal or add members first")


def snapshot(*, needed: int, free: int, last: str) -> Line:
    if needed > free:
        return Line(name="snapshot", ok=False, hint="see /var/lib/k8r/cluster",
                    text=f"no room for a snapshot of etcd: {format_size(needed)} are needed on the state partition, "
                         f"{format_size(free)} are free")
    return Line(name="snapshot", ok=True, text="a snapshot of etcd is taken and verified first" +
                (f"; the last one is {last}" if last else ""))


def pods(found: Sequence[Pod], where: Elsewhere | None) -> Line:
    """Never in the way: pods that have nowhere to go come back with the node."""
    number = f"{len(found)} pod{'' if len(found) == 1 else 's'}"
    scratch = sum(pod.scratch for pod in found)
    lost = f"; {scratch} of them lose an emptyDir" if scratch else ""
    if not found:
        text = "no pod has to move"
    elif where is None:
        text = f"{number} move; the other nodes cannot be seen with this node's credential"
    elif where.ready:
        text = f"{number} can move to {', '.join(where.ready[:4])}{' …' if len(where.ready) > 4 else ''}"
    else:
        why = "; ".join(where.closed) or "there is no other node"
        text = f"{number} have nowhere to go and come back with the node ({why})"
    return Line(name="pods", ok=True, text=text + lost)


def _days(seconds: float) -> str:
    days = int(seconds // DAY)
    return f"{days} day{'' if days == 1 else 's'}" if days else f"{seconds / 3600:.0f} h"
