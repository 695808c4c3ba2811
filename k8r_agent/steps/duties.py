"""What a node owes itself when no transaction runs: first boot, a stale arming, a working slot that died.

Every reboot and every task started here is counted on the state partition, so that none of it can go on for ever;
a node without that partition stays where it is and says why.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from k8r_agent.errors import DiskAmbiguous, K8rError, StateError
from k8r_agent.model.boot import BootState
from k8r_agent.model.slots import Slot, SlotState
from k8r_agent.model.txn import Transaction, TxnState
from k8r_agent.ports.statefiles import StateFiles
from k8r_agent.ports.step import World
from k8r_agent.store import jsonfile
from k8r_agent.store.slots import before

NAME = "duties.json"
FORMAT = 1
RETURNS = 3  # reboots to the primary in a row, without having seen it run
LAST_CHANCES = 1  # boots of a working slot without tries: three power cuts in a row are no fault of its own
REST = 300.0  # seconds between two attempts to reach a control plane
AUTOMATIC = 2  # reinstalls without an operator's word, for one content of the image slot


class Action(str, enum.Enum):
    NONE = "none"
    DISARM = "disarm"
    START = "start"  # a task
    UNCORDON = "uncordon"
    RETURN = "return"  # reboot to the primary, after a grace time


@dataclass(frozen=True, kw_only=True)
class Duty:
    """`why` and `hint` are for people; `status` shows them."""

    action: Action = Action.NONE
    why: str = ""
    hint: str = ""
    task: str = ""
    args: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Counters:
    """`chances`: boots given to a working slot without tries. `automatic` maps a digest of the image slot to the
    reinstalls started by the node itself."""

    returns: int = 0
    chances: int = 0
    automatic: Mapping[str, int] = field(default_factory=dict)


def decide(world: World, last: Transaction | None) -> Duty:
    """Observes only. `last` is the journal's transaction; while it runs there are no other duties."""
    if last is not None and last.state is TxnState.RUNNING:
        return Duty()
    try:
        world.disks.assert_writable()
        state = world.boot.state()
        if state.current is None:
            return Duty(why="this system was not booted from one of the node's slots: nothing is done by itself")
        if state.current is not state.primary:
            return _not_primary(world, state, last)
        if state.current is Slot.IMAGE:
            return _in_image(world, state, last)
        if state.armed:
            return Duty(action=Action.DISARM, why="a boot was armed, but nothing is going on")
        return _cluster(world, last)
    except DiskAmbiguous as error:
        return Duty(why=f"{error}: nothing is written", hint=error.hint)
    except K8rError as error:
        return Duty(why=str(error), hint=error.hint)


def _cluster(world: World, last: Transaction | None) -> Duty:
    """The working slot runs and is the primary: is the node where it belongs? One attempt for what is configured now;
    only what may mend itself is tried again, and not at once."""
    if not world.cluster.present() or not world.files.persistent():
        return Duty()
    from k8r_agent.steps import enrolment, enter_cluster, membership
    from k8r_agent.steps.entry import AGAIN

    if enrolment.by_hand(world) or membership.complete(world, membership.of(world)):
        return _inside(world, last)
    for mistake in world.mistakes:
        return Duty(why=f"the node enters no cluster before this is mended: {mistake}", hint="k8r-agent config check")
    found = enter_cluster.decision(world)
    if not found.entry:
        return Duty(why=f"the node is in no cluster: {found.reason}", hint=found.hint)
    if last is None or last.task != "join" or last.facts.get("asked") != enter_cluster.asked(world):
        return Duty(action=Action.START, task="join", why=f"the node belongs into a cluster: {found.reason}")
    again = AGAIN in last.facts
    if again and _rested(world, last):
        return Duty(action=Action.START, task="join", why=f"{last.note}: once more")
    return Duty(why=f"the node is in no cluster: {last.note}", hint=last.facts.get("hint", "") or (
        "" if again else "mend the cause, then run `k8r-agent join`"))


def _inside(world: World, last: Transaction | None) -> Duty:
    """In its cluster: what a task that ended left undone there."""
    from k8r_agent.steps.entry import AGAIN
    from k8r_agent.store import cordon, upgrade

    rested = last is None or _rested(world, last)
    begun = upgrade.load(world.files)
    if begun is not None and not begun.owed and (last is None or last.task != "settle" or rested):
        return Duty(action=Action.START, task="settle",
                    why=f"the upgrade of the control plane to {begun.after} was begun and has not ended")
    if left := cordon.load(world.files):
        return Duty(action=Action.UNCORDON, why=f"{left.node} was cordoned for a reinstall and still is")
    failed = last is not None and last.task == "join" and last.state is TxnState.FAILED
    if last is not None and failed and AGAIN in last.facts and rested and _networkless(world):
        return Duty(action=Action.START, task="join", why=f"the cluster has no pod network: {last.note}: once more")
    return Duty()


def _networkless(world: World) -> bool:
    from k8r_agent.steps.install_cni import InstallCni

    return not InstallCni().done(world)


def _rested(world: World, last: Transaction) -> bool:
    """Where the clock was ahead when that attempt ended, or is behind now, nobody knows how long ago that was: one
    attempt for each start of the runner then, which k8r-join.timer starts every ten minutes."""
    if world.cluster.clock() < last.ended:
        return world.txn is None or world.txn.id != last.id
    return world.machine.now() - last.ended >= REST


def _not_primary(world: World, state: BootState, last: Transaction | None) -> Duty:
    here, there = state.current, state.primary
    if not world.files.persistent():
        return Duty(why=f"the {here} slot runs although {there} is the primary, and there is no state partition to "
                    "count a reboot on: the node stays here", hint="look at `k8r-agent status`, then reboot by hand")
    if here is Slot.IMAGE and state.tries_left == 0:
        return _working_dead(world, "the working slot used up its boot tries, so the image slot was booted")
    if here is Slot.IMAGE and world.boot.assets(Slot.WORKING) is None:
        return _working_dead(world, "the working slot's kernel or initrd is missing or damaged, so the image slot was "
                             "booted")
    if counters(world.files).returns >= RETURNS:
        return Duty(why=f"{RETURNS} reboots to the {there} slot ended in the {here} slot again: the node stays here",
                    hint="`k8r-agent events` says what was tried; `k8r-agent reinstall` rewrites the working slot")
    why = f"the {here} slot runs, but {there} is the primary and no transaction is running"
    if here is Slot.WORKING and last is not None and last.state is TxnState.FAILED:
        why = f"{last.task} failed ({last.note}): the node goes back to the image slot"
    hint = ("`k8r-agent confirm` keeps the working slot if it is well, `k8r-agent confirm --force` as it is"
            if here is Slot.WORKING else "any request, or `k8r-agent confirm --yes`, keeps it here")
    return Duty(action=Action.RETURN, why=why, hint=hint)


def _working_dead(world: World, why: str) -> Duty:
    from k8r_agent.steps import by_hand

    image, lost = world.slots.status(Slot.IMAGE), by_hand.loss(world) or _no_way_back(world)
    why = f"{why}; {lost}" if lost else why
    offer = Duty(why=why, hint=f"{_ways_out(world)}; `k8r-agent reboot --slot working` tries it once more")
    if counters(world.files).chances < LAST_CHANCES and world.boot.assets(Slot.WORKING) is not None:
        return Duty(action=Action.RETURN, why=f"{why}; it gets one more chance", hint=offer.hint)
    if world.settings.boot.when_working_dead != "reinstall":
        return offer
    if lost:
        return Duty(why=f"{why}: no reinstall by itself", hint=offer.hint)
    if image.state is not SlotState.OK:
        return Duty(why=f"{why}; no reinstall by itself, because the image slot is {image.state}", hint=offer.hint)
    if counters(world.files).automatic.get(image.digest, 0) >= AUTOMATIC:
        return Duty(why=f"{why}; {AUTOMATIC} reinstalls of this release did not last, no more by itself",
                    hint="`k8r-agent events` says what was tried; update to another release")
    return Duty(action=Action.START, task="reinstall", why=f"{why}: reinstalling as boot.when_working_dead says")


def _no_way_back(world: World) -> str:
    """Why a control plane could not come back from the present image; "" when it could, and for any other node."""
    from k8r_agent.steps import cluster_gates

    try:
        cluster_gates.assert_comes_back(world)
    except K8rError as error:  # also what cannot be read: that must not cost the working slot its chance
        return f"the image slot cannot bring its control plane back: {error.why or error}"
    return ""


def _in_image(world: World, state: BootState, last: Transaction | None) -> Duty:
    """The image slot is the primary: first boot, or a task that failed after its point of no return."""
    if world.slots.status(Slot.WORKING).state is SlotState.UNKNOWN and (last is None or last.task == "first-boot"):
        return _first_boot(world, last)
    if state.armed:
        return Duty(action=Action.DISARM, why="a boot was armed, but nothing is going on")
    note = f"{last.task} {last.state}: {last.note}" if last else "the working slot is not in order"
    return Duty(why=f"the node stays in the image slot ({note})", hint=_ways_out(world))


def _ways_out(world: World) -> str:
    """To a working slot, while the image slot runs for want of one."""
    working = world.slots.status(Slot.WORKING)
    force = " --force" if working.by_hand else ""
    ways = [f"`k8r-agent reinstall{force}` writes the working slot from the image slot",
            f"`k8r-agent update{force} DIR|URL` with a newer release"]
    if older := before(world.slots, working.release):
        ways.append(f"`k8r-agent rollback{force}` with release {older}")
    if working.state is SlotState.OK and world.boot.state().primary is Slot.IMAGE:
        ways.append("`k8r-agent reboot --slot working` and there `k8r-agent confirm --force` keep it as it is")
    return ", ".join(ways)


def _first_boot(world: World, last: Transaction | None) -> Duty:
    if world.state.marker() is not None and not world.files.persistent():
        return Duty(why="the state partition was initialised once but cannot be mounted: nothing is formatted",
                    hint="`k8r-agent status` says why; repair it or replace the disk")
    if last is not None and last.state is not TxnState.RUNNING:
        return Duty(why=f"the first boot {last.state}: {last.note}",
                    hint=f"{last.facts.get('hint') or 'mend the cause'}, then run `k8r-agent first-boot`")
    return Duty(action=Action.START, task="first-boot", why="the disk was never set up")


# counting


def counters(files: StateFiles) -> Counters:
    """A damaged file counts as the limit reached: rather stay than loop. It is replaced when an operator speaks, or
    when the primary runs."""
    try:
        record = jsonfile.load(files, NAME, format_now=FORMAT, quarantine=False) or {}
        automatic = record.get("automatic", {})
        return Counters(returns=int(record.get("returns", 0)), chances=int(record.get("chances", 0)),
                        automatic={str(k): int(v) for k, v in automatic.items()})
    except (StateError, ValueError, TypeError, AttributeError):
        return Counters(returns=RETURNS, chances=LAST_CHANCES)


def save(files: StateFiles, value: Counters) -> None:
    record: dict[str, Any] = {"format": FORMAT, "returns": value.returns, "chances": value.chances,
                              "automatic": dict(value.automatic)}
    files.write(NAME, jsonfile.encode(record))


def count_return(files: StateFiles) -> None:
    """Durable before the reboot that it counts."""
    now = counters(files)
    save(files, replace(now, returns=now.returns + 1))


def count_chance(files: StateFiles) -> None:
    now = counters(files)
    save(files, replace(now, chances=now.chances + 1))


def primary_runs(files: StateFiles) -> None:
    """The last reboot led where it should."""
    now = counters(files)
    if now.returns:
        save(files, replace(now, returns=0))


def boot_completed(files: StateFiles) -> None:
    """Of a working slot that is the primary, after its tries were refilled: the boots that were lost before are
    forgotten, as they are there. Until then it may still die of what it died of."""
    now = counters(files)
    if now.returns or now.chances:
        save(files, replace(now, returns=0, chances=0))


def count_automatic(files: StateFiles, digest: str) -> None:
    now = counters(files)
    save(files, replace(now, automatic={digest: now.automatic.get(digest, 0) + 1}))


def operator_spoke(files: StateFiles) -> None:
    """A request by hand gives the node its automatic attempts back."""
    if counters(files) != Counters():
        save(files, Counters())
