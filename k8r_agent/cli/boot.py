"""boot health, confirm, deadline: what the units of a boot call. boot check is for people.

health ends when the slot is well (boot-complete.target follows), confirm refills the tries after that, and deadline
leaves a boot that never gets there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from k8r_agent.cli.console import Console
from k8r_agent.errors import Exit, HealthFailed, K8rError
from k8r_agent.model.slots import Slot
from k8r_agent.model.txn import Event
from k8r_agent.ports.machine import told

if TYPE_CHECKING:
    from argparse import Namespace

    from k8r_agent.cli.node import Node
    from k8r_agent.ports.boot import BootBackend

INTERVAL = 5.0  # seconds between looks
MARGIN = 30.0  # seconds before the deadline at which health gives up, so that its reason is logged before the reboot
PATIENCE = 60.0  # seconds for what is outside of the node
COMPLETE = "boot-complete.target"
IMAGES = "k8r-preload-images.service"  # the kubelet waits for it, and the boot for the kubelet


def run_health(args: Namespace, console: Console, node: Node) -> int:
    """Waits until every check is good. Raises HealthFailed naming those that are not when the time is up.

    A switch that is slower than the node after a power cut must not cost the working slot its tries: what is outside
    of the node is waited for, but not for ever, and does not make a boot a bad one.
    """
    from k8r_agent.steps.health import OUTSIDE

    machine = node.world.machine
    patient_until = machine.monotonic() + PATIENCE
    end = max(node.lenient()[0].boot.deadline - MARGIN, patient_until)  # it may come late, after container images
    waited_for = ""
    while True:
        checks, accepted = machine.health(), _accepted(node)  # each time: somebody may just now accept them
        sick = tuple(check for check in checks if not check.ok and check.name not in accepted)
        bad = told(sick)
        outside = all(check.name in OUTSIDE for check in sick)
        if not bad or (outside and machine.monotonic() + INTERVAL > min(patient_until, end)):
            console.say(*(f"{check.name}: {check.detail}" for check in checks))
            console.result({"healthy": not bad, "checks": [_check(c.name, c.ok, c.detail) for c in checks]})
            return Exit.OK
        if bad != waited_for:
            waited_for = bad
            console.note(f"waiting for {bad}")
        if machine.monotonic() + INTERVAL > end:
            raise HealthFailed("this boot is not well", why=bad, hint="k8r-recovery(7)")
        node.sleep(INTERVAL)


def _accepted(node: Node) -> tuple[str, ...]:
    """Failing checks of the running slot that an operator puts up with."""
    try:
        slot = node.world.boot.state().current
        return node.slots.status(slot).accepted if slot else ()
    except K8rError:
        return ()


def _check(name: str, ok: bool, detail: str) -> dict[str, object]:
    return {"name": name, "ok": ok, "detail": detail}


def run_confirm(args: Namespace, console: Console, node: Node) -> int:
    """Only the primary has tries to refill. A try-boot is confirmed by the task that asked for it."""
    state = node.world.boot.state()
    refill = state.current is state.primary
    if refill:
        node.world.boot.refill_tries()
    if refill and state.current is Slot.WORKING:
        _forget_lost_boots(node, console)
    _mend_loader(node, console)
    if not refill and state.current is Slot.IMAGE:
        node.world.boot.image_came_up()
    console.say(f"the {state.current} slot is up" + (", its tries are full again" if refill else
                                                     f"; the primary is {state.primary}"))
    console.result({"slot": str(state.current), "refilled": refill})
    return Exit.OK


def _forget_lost_boots(node: Node, console: Console) -> None:
    """Here, because the runner looks at them when this boot is not complete yet."""
    from k8r_agent.steps import duties

    try:
        duties.boot_completed(node.files)
    except K8rError as error:
        console.note(f"what was counted of earlier boots could not be forgotten: {error}")


def _mend_loader(node: Node, console: Console) -> None:
    """What is wrong with the loader's own programs is found in the next boot only, when it is too late. That they
    cannot be looked at is no reason to call this boot a bad one."""
    boot = node.world.boot
    try:
        faults = boot.loader_faults()
        if any(fault.mendable for fault in faults):
            for path in boot.mend_loader():
                said = f"{path} on the boot partition was damaged and is put back"
                console.note(said)
                _remember(node, said)
            faults = boot.loader_faults()
        for fault in faults:
            console.note(f"{fault.path} on the boot partition: {fault.why}; k8r-recovery(7)")
            _remember(node, f"{fault.path} on the boot partition: {fault.why}")
    except K8rError as error:
        console.note(f"the boot loader's programs could not be checked: {error}")


def run_check(args: Namespace, console: Console, node: Node) -> int:
    """Exit code 1 when the next boot may not go as it should."""
    node.require_root("boot check")
    boot = node.world.boot
    lost = [f"the {slot} slot's kernel or initrd is missing or damaged" for slot in Slot if boot.assets(slot) is None]
    if not boot.state().image_offered:
        lost.append("an update of the image slot was not completed, so it cannot be booted; `k8r-agent update`")
    faults = boot.loader_faults()
    found = [*boot.problems(), *lost, *(f"{fault.path}: {fault.why}" + (
        "; the next boot that completes puts it back, or `k8r-agent boot confirm` now" if fault.mendable else "")
        for fault in faults)]
    console.say(*found or ("the boot decision, both slots' kernels and the boot loader are as they should be",))
    console.result({"ok": not found, "problems": found})
    return Exit.FAILED if found else Exit.OK


def run_deadline(args: Namespace, console: Console, node: Node) -> int:
    """Reboots only where another slot or a counted try is behind it: a node without either stays reachable. The time
    in which container images are imported does not count: it has a limit of its own, and a reboot makes it no shorter.
    """
    machine, deadline = node.world.machine, node.lenient()[0].boot.deadline
    while machine.monotonic() < deadline:
        if node.unit_active(COMPLETE):
            return Exit.OK
        pause = min(INTERVAL, max(0.1, deadline - machine.monotonic()))
        if node.unit_starting(IMAGES):
            deadline += pause
        node.sleep(pause)
    if node.unit_active(COMPLETE):
        return Exit.OK
    try:
        stay = _reason_to_stay(node.world.boot, persistent=node.files.persistent())
    except K8rError as error:
        stay = f"the boot loader cannot be asked ({error})"
    what = f"this boot was not complete after {deadline:.0f} s" + _sick(node)
    _remember(node, f"{what}; " + (f"the node stays up: {stay}" if stay else "rebooting"))
    console.note(what + (f"; staying up: {stay}" if stay else "; rebooting"))
    console.result({"rebooting": not stay, "why": stay})
    if not stay:
        machine.reboot()
    return Exit.OK


def _sick(node: Node) -> str:
    """What is not well, as far as that can be said."""
    try:
        accepted = _accepted(node)
        bad = told(check for check in node.world.machine.health() if not check.ok and check.name not in accepted)
    except K8rError:
        bad = ""
    return f" ({bad})" if bad else ""


def _reason_to_stay(boot: BootBackend, *, persistent: bool) -> str:
    state = boot.state()
    if state.current is None:
        return "it was not booted from one of its slots"
    if state.current is Slot.IMAGE and state.primary is Slot.IMAGE:
        return "the image slot is the primary, there is nothing behind it"
    if state.current is Slot.IMAGE and state.tries_left == 0:
        return "the working slot used up its tries, and nothing else is known to be better"
    if not persistent:
        return "there is no state partition, so no attempt can be counted"
    if state.current is state.primary and state.tries_left == 0 and not state.image_offered:
        return "the working slot used up its tries, and the image slot is half written"
    if state.current is state.primary and state.tries_left is None:
        return "the boot loader counts no tries, it would boot the same again for ever"
    if state.current is state.primary and boot.assets(Slot.IMAGE) is None:  # which not every loader counts tries for
        return "the image slot's kernel or initrd is missing or damaged, there is nothing behind the working slot"
    return ""


def _remember(node: Node, message: str) -> None:
    machine = node.world.machine
    node.events.append(Event(time=machine.now(), txn="", task="", step="", kind="failed", message=message,
                             boot_id=machine.boot_id()))
