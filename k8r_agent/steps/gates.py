"""Before a reinstall: everything that can be known to be wrong is found while nothing has been touched."""

from __future__ import annotations

from dataclasses import dataclass

from k8r_agent.errors import K8rError, NoState, Refused
from k8r_agent.model.layout import IMAGE, WORKING, Partition
from k8r_agent.model.slots import Slot, SlotState
from k8r_agent.ports.step import World
from k8r_agent.steps import by_hand, quarantine


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a reinstall would do: for `--dry-run` and for the question before it. Sizes in bytes."""

    release_now: int
    release_then: int
    version_then: str
    working_size: int
    lost: tuple[str, ...]
    kept: tuple[str, ...]
    refusals: tuple[K8rError, ...]  # empty: it can go on


LOST = (
    "everything on the working slot: packages installed since, container images, local volumes, home directories, "
    "logs",
)
KEPT = (
    "the state partition: journal and event log, machine-id, host name, host keys, users and authorized keys, "
    "network, /etc/k8r",
    "the image slot and k8r.toml on the boot partition",
)


def plan(world: World) -> Plan:
    """Observes only."""
    image, working = world.slots.status(Slot.IMAGE), world.slots.status(Slot.WORKING)
    found = _partition(world, WORKING)
    return Plan(release_now=working.release, release_then=image.release, version_then=image.version,
                working_size=found.size if found else 0, lost=LOST, kept=KEPT, refusals=tuple(_refusals(world)))


class Preflight:
    name = "preflight"
    summary = "Check that the node can be reinstalled"

    def done(self, world: World) -> bool:
        return world.recall("preflight") == "passed"

    def apply(self, world: World) -> None:
        for refusal in _refusals(world):
            raise refusal
        world.boot.disarm()  # what was armed earlier, for whatever reason, would boot in the middle of this
        image = world.slots.status(Slot.IMAGE)
        quarantine.forgive(world, image.release)
        world.remember("release", str(image.release))
        world.remember("version", image.version)
        world.remember("digest", image.digest)
        world.remember("preflight", "passed")


def _refusals(world: World) -> list[K8rError]:
    """Every reason at once, worst first."""
    found: list[K8rError] = []
    for gate in (_state, _disk, _image, _boot, by_hand.refuse, _kubernetes):
        try:
            gate(world)
        except K8rError as error:
            found.append(error)
    return found


def _state(world: World) -> None:
    if not world.files.persistent() or not world.state.mounted():
        raise NoState("the node cannot be reinstalled", why="its state partition is not there",
                      hint="`k8r-agent status` says why")


def _disk(world: World) -> None:
    world.disks.assert_writable()
    image, working = _partition(world, IMAGE), _partition(world, WORKING)
    if image is None or working is None:
        raise Refused("the node cannot be reinstalled", why="its disk has no image or no working partition")
    facts = world.disks.facts()
    if facts.slot is not world.boot.state().current:
        raise Refused("the node cannot be reinstalled", why=f"it runs from {facts.rootpart} ({facts.slot}), but the "
                      f"boot loader says {world.boot.state().current}")


def _image(world: World) -> None:
    status = world.slots.status(Slot.IMAGE)
    if status.state is not SlotState.OK:
        raise Refused("the node cannot be reinstalled", why=f"the image slot is {status.state}",
                      hint="run `k8r-agent update` first")
    if world.boot.state().current is Slot.WORKING:  # where the image slot runs there is nothing left to protect
        quarantine.refuse(world, status.release)


def _boot(world: World) -> None:
    """The image slot must be able to boot. Whether working can is asked only where the node would return to it."""
    state = world.boot.state()
    if state.current is None:
        raise Refused("the node cannot be reinstalled", why="it was not booted from one of its slots")
    needed = [Slot.IMAGE] if state.current is Slot.IMAGE else [Slot.IMAGE, Slot.WORKING]
    for slot in needed:
        assets = world.boot.assets(slot)
        if assets is None:
            raise Refused("the node cannot be reinstalled", why=f"the {slot} slot's kernel or initrd is missing or "
                          "damaged", hint=f"run `k8r-agent slot install-assets {slot}`")
        if slot is Slot.IMAGE:  # the new working slot boots the same
            world.boot.assert_room(assets, Slot.WORKING)


def _kubernetes(world: World) -> None:
    from k8r_agent.steps import cluster_gates

    cluster_gates.assert_comes_back(world)


def _partition(world: World, number: int) -> Partition | None:
    try:
        return world.disks.own().partition(number)
    except K8rError:
        return None
