"""What `status` shows: gathered part by part, so that one broken part never hides the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from k8r_agent.errors import K8rError
from k8r_agent.model.boot import BootFacts, BootState
from k8r_agent.model.slots import Slot, SlotState, SlotStatus
from k8r_agent.model.txn import Request, Transaction, TxnState

if TYPE_CHECKING:
    from k8r_agent.cli.node import Node

T = TypeVar("T")
SOFTDOG = "Software Watchdog"  # what Linux' softdog calls itself
REMEDY = "systemctl start k8r-runner.path k8r-runner.service"  # after a runner that could not remember anything


@dataclass(frozen=True, kw_only=True)
class Report:
    """`problems` are (what, hint). Unknown parts are None."""

    hostname: str
    role: str
    now: float
    facts: BootFacts | None
    boot: BootState | None
    slots: dict[Slot, SlotStatus]
    persistent: bool
    last: Transaction | None
    position: str  # the step a running transaction is at
    queued: tuple[Request, ...]
    holder: str  # who works now, "" for nobody
    floor: int
    source: str
    cluster: str  # "" on a system without Kubernetes
    trouble: tuple[str, str]  # why nothing can be written to the state partition, and what to do
    duty: str  # why the runner does something, or holds back, by itself
    duty_hint: str
    problems: tuple[tuple[str, str], ...] = field(default=())

    @property
    def current(self) -> Slot | None:
        if self.boot and self.boot.current:
            return self.boot.current
        return self.facts.slot if self.facts else None


def gather(node: Node) -> Report:
    problems: list[tuple[str, str]] = []

    def attempt(ask: Callable[[], T], otherwise: T) -> T:
        try:
            return ask()
        except K8rError as error:
            problems.append((str(error), error.hint))
            return otherwise

    settings, mistakes = node.lenient()
    facts = attempt(node.facts, None)
    last = attempt(node.transaction, None)
    duty = attempt(lambda: node.duty(last, facts), None) if facts else None
    report = Report(
        hostname=node.hostname(), role=settings.node.role, now=node.now(), facts=facts,
        boot=attempt(node.boot_state, None) if facts else None,
        slots={slot: attempt(lambda slot=slot: node.slots.status(slot), SlotStatus())  # type: ignore[misc]
               for slot in (Slot.WORKING, Slot.IMAGE)},
        persistent=node.files.persistent(), last=last, position=attempt(node.position, "") if last else "",
        queued=attempt(node.queue.pending, ()), holder=node.lock.holder(), floor=attempt(node.slots.release_floor, 0),
        source=settings.update.source, cluster=attempt(node.cluster, ""),
        trouble=attempt(node.files.trouble, ("", "")),
        duty=duty.why if duty else "", duty_hint=duty.hint if duty else "",
    )
    problems += _found(report)
    nothing: tuple[str, ...] = ()
    problems += [(f"release {bad.release} is in quarantine: {bad.why}", "a newer release may work, or --force")
                 for bad in node.quarantined()]
    problems += [(said, "the runner sets it aside") for said in attempt(node.slots.problems, nothing)]
    if report.boot:
        problems += [(said, "") for said in attempt(lambda: node.world.boot.problems(), nothing)]
    if mistakes:
        number = "a mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        problems.append((f"the configuration has {number}; updates and reinstalls wait until it is corrected",
                         "k8r-agent config check"))
    return Report(**{**report.__dict__, "problems": tuple(problems)})


def _found(report: Report) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    facts = report.facts
    if facts is None:
        return found
    if facts.duplicate:
        found.append((f"{facts.duplicate} carries the same IDs as this node's disk; nothing is written to either",
                      "remove one of the disks and reboot"))
    if not report.persistent:
        why = facts.state.removeprefix("failed:") if facts.state.startswith("failed") else "there is none"
        found.append((f"no state partition ({why}): nothing that must survive a reboot can be remembered",
                      "k8r-recovery(7)" if facts.state.startswith("failed") else ""))
    if accepted := report.slots[Slot.WORKING].accepted:
        found.append((f"the working slot was confirmed although it was not well: {', '.join(accepted)}", ""))
    if report.trouble[0]:
        found.append((f"{report.trouble[0]}: no task goes on or is started", report.trouble[1]))
    if facts.watchdog is None:
        found.append(("no watchdog: a hang of the kernel needs a person", ""))
    elif facts.watchdog == SOFTDOG:
        found.append(("no hardware watchdog: a hang in which the kernel's clock stops too needs a person", ""))
    return found


def running(report: Report) -> bool:
    return report.last is not None and report.last.state is TxnState.RUNNING


def advice(report: Report) -> str:
    """The one thing to do next. The order is that of urgency."""
    if report.facts is None:
        return "this system was not booted by k8r; its disk is left alone"
    if report.facts.duplicate:
        return "two disks carry the same IDs: remove one and reboot"
    if report.trouble[0]:
        return f"{report.trouble[0]}: {report.trouble[1] or 'k8r-recovery(7)'}; then `{REMEDY}`"
    if task := _wanted(report):
        if not report.holder:  # the runner ended, or has not begun
            return (f"{task} waits for a runner, and none works now: `journalctl -u k8r-runner` says why, "
                    f"`{REMEDY}` goes on with it")
        return f"{task} is {'running' if running(report) else 'queued'}: `k8r-agent task watch`"
    if report.duty:
        return report.duty + (f": {report.duty_hint}" if report.duty_hint else "")
    if not report.persistent:
        return "without the state partition nothing can be started or remembered: k8r-recovery(7)"
    return _armed(report) or _by_last(report) or _half_written(report) or _by_release(report) or "nothing to do"


def _wanted(report: Report) -> str:
    """The task that is running or the first one in the queue."""
    if running(report) and report.last:
        return report.last.task
    return report.queued[0].task if report.queued else ""


def _armed(report: Report) -> str:
    if report.boot and report.boot.armed:
        return f"the next boot goes to the {report.boot.armed} slot, once: `k8r-agent reboot`"
    return ""


def _half_written(report: Report) -> str:
    if report.current is not Slot.WORKING or report.slots[Slot.IMAGE].state is not SlotState.PENDING:
        return ""
    cancelled = report.last is not None and report.last.state is TxnState.CANCELLED and report.last.task == "update"
    how = "update" if report.source else "task retry" if cancelled else "update DIR|URL"
    return f"the image slot is half written: `k8r-agent {how}` writes it again"


def _by_last(report: Report) -> str:
    last = report.last
    if last is None or last.state is not TxnState.FAILED:
        return ""
    remedy = last.facts.get("hint") or "see `k8r-agent events`"
    return f"the last {last.task} failed: {remedy}, then `k8r-agent task retry`"


def _by_release(report: Report) -> str:
    working, image = report.slots[Slot.WORKING], report.slots[Slot.IMAGE]
    if image.state is SlotState.OK and image.digest and working.digest and image.digest != working.digest:
        name = f"{image.version} (release {image.release})" if image.version else f"release {image.release}"
        return f"{name} is in the image slot: `k8r-agent reinstall` installs it"
    return ""
