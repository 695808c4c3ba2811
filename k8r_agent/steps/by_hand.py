"""A place in a cluster that somebody made by hand is on the working slot only. While that slot runs, its status comes
to say so: the image slot cannot look there, and may run just because the working slot's file system died.
"""

from __future__ import annotations

from dataclasses import replace

from k8r_agent.errors import K8rError, Refused
from k8r_agent.model.slots import Slot
from k8r_agent.ports.cluster import ETCD, PKI
from k8r_agent.ports.step import World
from k8r_agent.steps import enrolment

_WHAT = {"control-plane": "a control plane that was made by hand (its etcd and keys are not on the state partition)",
         "worker": "a worker that was joined by hand (its credential is not on the state partition)"}


def note(world: World) -> None:
    """Durable on return. What cannot be looked at leaves the status as it is. Raises StateError when that cannot be
    written."""
    if world.boot.state().current is not Slot.WORKING or not world.files.persistent():
        return
    try:
        found = _role(world)
    except K8rError:
        return
    status = world.slots.status(Slot.WORKING)
    if status.by_hand != found:
        world.slots.set_status(Slot.WORKING, replace(status, by_hand=found))


def _role(world: World) -> str:
    if not world.cluster.present():
        return ""
    # In this order: where the kept directory is bound while this looks, both see it.
    if world.cluster.names(f"{ETCD}/member") and not world.cluster.etcd_kept():
        return "control-plane"
    if not enrolment.by_hand(world):
        return ""
    return "control-plane" if world.cluster.read(f"{PKI}/ca.key") is not None else "worker"


def loss(world: World) -> str:
    """What would go with the working slot, for people; "" when it is kept, or was never there."""
    role = world.slots.status(Slot.WORKING).by_hand
    return f"the working slot holds {_WHAT.get(role, role)}" if role else ""


def refuse(world: World) -> None:
    """In the image slot, unless forced; in the working slot the step cluster-gates asks the cluster itself. Raises
    Refused. Observes only."""
    lost = loss(world)
    if lost and world.boot.state().current is Slot.IMAGE and not enrolment.forced(world):
        raise Refused("the working slot is not written over", why=lost, hint="`k8r-agent reboot --slot working` tries "
                      "it once more, k8r-recovery(7) saves what is on it; --force gives it up")
