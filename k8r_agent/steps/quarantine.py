"""Releases that did not work on this node are not brought again by themselves."""

from __future__ import annotations

from k8r_agent.errors import Refused
from k8r_agent.model.txn import Transaction
from k8r_agent.ports.step import World
from k8r_agent.store import condemned

BLAMED = ("self-check", "boot-working", "rejoin", "health-check", "cluster-health")  # where the new system runs


def refuse(world: World, release: int) -> None:
    """Raises Refused for one in quarantine, unless forced. Observes only."""
    found = condemned.find(world.files, release)
    if found is not None and world.arg("force") != "yes":
        raise Refused(f"release {release} is in quarantine on this node", why=found.why,
                      hint="a newer release may work; --force takes this one all the same")


def forgive(world: World, release: int) -> None:
    """Somebody forced it: it gets another chance."""
    if world.arg("force") == "yes":
        condemned.forgive(world.files, release)


class QuarantineRelease:
    """After a reinstall that failed in the new system. Where the node goes back to an older release, the next check
    would take this one for news."""

    name = "quarantine-release"
    summary = "Remember that this release did not work here"

    def done(self, world: World) -> bool:
        if not world.files.persistent() or world.txn is None or _blame(world.txn) is None:
            return True
        release = _brought(world)
        return not release or condemned.find(world.files, release) is not None

    def apply(self, world: World) -> None:
        assert world.txn is not None
        condemned.add(world.files, condemned.Condemned(
            release=_brought(world), why=_blame(world.txn) or "", time=world.machine.now()))


def _brought(world: World) -> int:
    """The release that this transaction brings: a rescue's is in the working slot only."""
    return int(world.recall("release") or 0)


def _blame(txn: Transaction) -> str | None:
    """What the way back refuses of itself (another address, a key that is not kept) is no fault of the new system."""
    step = txn.facts.get("failed-step", "")
    if step == "rejoin" and txn.facts.get("error") == Refused.code:
        return None
    return f"{step}: {txn.facts.get('why') or 'it failed'}" if step in BLAMED else None
