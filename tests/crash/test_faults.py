"""A full file system or an I/O error at every write: the product's engine over the disks of the crash matrix.

At the k-th point something fails: once, or from then on until somebody mends it. What fails below the files of the
state partition and of the boot partition is an OSError, told in the product's own words. The node must stay bootable,
and `status` must say what is wrong; once it is mended, the same task ends well. `make matrix` fills it up at each
point there is, and tries the other faults at every tenth (K8R_FAULT_EVERY).
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from k8r_agent import runner
from k8r_agent.cli import report, status
from k8r_agent.cli.console import Console
from k8r_agent.cli.node import Node
from k8r_agent.engine import Outcome
from k8r_agent.errors import DiskError, K8rError, StateError
from k8r_agent.model.slots import Slot
from k8r_agent.model.txn import TxnState
from k8r_agent.steps import duties
from k8r_agent.store.journal import Journal
from k8r_agent.store.lock import Lock
from tests.crash.explorer import invariants
from tests.crash.scenarios import MakeLoader, asked, fresh, last, reinstalled, settled, updated
from tests.fakes.bootfiles import FakeBootFiles
from tests.fakes.loaders import LOADERS
from tests.fakes.world import FakeNode

ETCD = {"etcd/member/wal/0.wal": b"the cluster", "pki/ca.key": b"its key"}
TASKS: dict[str, tuple[Callable[[MakeLoader], FakeNode], dict[str, str], int]] = {
    "first-boot": (fresh, {}, 1),
    "update": (lambda at: asked(settled(at), "update", source="release-2"), {"source": "release-2"}, 1),
    "reinstall": (lambda at: asked(updated(at), "reinstall"), {}, 2),
    "rollback": (lambda at: asked(reinstalled(at), "rollback", source="release-1"), {"source": "release-1"}, 1),
}


def _files(number: int, point: str) -> Exception:
    return OSError(number, os.strerror(number))


def _boot(number: int, point: str) -> Exception:
    """What is overwritten in place finds its room."""
    full = number == errno.ENOSPC and point.endswith((":put-before", ":put-half", ":put-cached"))
    return _files(number if full else errno.EIO, point)


def _disk(number: int, point: str) -> Exception:
    return DiskError("cannot write", why=os.strerror(number))


# Which points belong to which device, and what its writing calls raise.
DEVICES: dict[str, tuple[tuple[str, ...], Callable[[int, str], Exception]]] = {
    "the state partition": (("files:",), _files),
    "the boot partition": (("boot:", "efi:"), _boot),
    "the disk": (("disk:", "table:", "mkfs:", "grow:", "mount:"), _disk),
}
SESSIONS = 40
FULL = (errno.ENOSPC, True)  # the error, and whether it lasts
OTHERS = ((errno.ENOSPC, False), (errno.EIO, False), (errno.EIO, True))


@dataclass
class Fault:
    """While `task` is under way the `at`-th point of a device fails; with `lasting` all that follow do too. `before`:
    id of the transaction that was the last one then."""

    task: str
    before: str
    device: str
    number: int
    at: int
    lasting: bool
    met: int = 0
    on: bool = True
    primary: Slot | None = None

    def watch(self, node: FakeNode, name: str) -> None:
        self.primary = invariants(node, name, self.primary or node.loader.decided())
        prefixes, error = DEVICES[self.device]
        if not self.on or not name.startswith(prefixes):
            return
        self.met += 1
        if self.met - 1 == self.at or (self.lasting and self.met > self.at):
            if name.startswith("boot:"):
                self._settle(node)
            if name.startswith("files:") and self.lasting:
                node.files.fault = self.number
            raise error(self.number, name)

    def mend(self, node: FakeNode) -> None:
        self.on, node.files.fault = False, 0
        if node.running is None:
            node.power_on()

    def _settle(self, node: FakeNode) -> None:
        """After a failed write Linux takes the pages for clean: who reads with the cache dropped, as the agent does,
        sees what the medium has, which is the old or the new."""
        files = node.loader.files
        assert isinstance(files, FakeBootFiles)
        if self.at % 2:
            files._flush()
        else:
            files.pending.clear()
            files.live = dict(files.medium)


def drive(node: FakeNode, fault: Fault) -> None:
    """Until two boots in a row bring nothing new. A runner that ends with an error is not started again, as its unit
    says: a person does it, or the next boot."""
    quiet = 0
    for number in range(SESSIONS):
        if node.running is None:
            node.power_on()
        with contextlib.suppress(K8rError):  # of a unit of its own: the runner does not wait for it
            node.complete()
        try:
            quiet = 0 if node.work() is Outcome.REBOOTING else quiet + 1
        except StateError as error:
            quiet += 1
            assert os.strerror(fault.number) in error.why and error.hint, error
            assert _done(node, fault) or report.REMEDY in told(node), f"it does not say that it ended: {told(node)}"
            if not number % 2 and quiet < 2:
                node.kill()
                continue
        if quiet >= 2:
            return
        node.shut_down()
    raise AssertionError(f"not at rest after {SESSIONS} boots; {told(node)}")


def told(node: FakeNode) -> str:
    """What `k8r-agent status` prints while no runner works."""
    nowhere = Path("/nowhere")
    found = report.gather(Node(root=nowhere, world=node.world(), lock=Lock(nowhere / "lock")))
    return "\n".join(status.text(found, Console(out=io.StringIO(), err=io.StringIO(), environ={})))


def explained(node: FakeNode, fault: Fault) -> bool:
    """The task is done in spite of it; `status` names the cause; or, where the cause is why nothing can be written
    down, `status` says that the runner ended and where its last words are: drive() has read them."""
    full = {"the state partition": "the state partition is full", "the boot partition": "the boot partition is full",
            "the disk": os.strerror(errno.ENOSPC)}[fault.device]
    says = [full, os.strerror(errno.EIO)]
    if fault.device == "the state partition":
        says.append("journalctl -u k8r-runner")
    return _done(node, fault) or any(words in told(node) for words in says)


def check_at_rest(node: FakeNode, fault: Fault, precious: dict[str, bytes]) -> None:
    assert explained(node, fault), f"nothing says what is wrong: {told(node)}"
    state = node.loader.backend(node.running).state()
    assert node.running is state.primary or state.tries_left == 0 or fault.lasting, (node.running, state)
    for name, data in precious.items():
        assert not node.files.on_partition or node.files.live.get(name) == data, f"{name} was touched"
    assert getattr(node.disks, "mkfs_runs", 0) <= 2


def run(task: str, loader: str, device: str, number: int, at: int, lasting: bool) -> bool:
    """Whether the fault was met at all."""
    make, args, release = TASKS[task]
    node = make(LOADERS[loader])
    if task != "first-boot":
        for name, data in ETCD.items():
            node.files.live[name] = node.files.medium[name] = data
    before = Journal(node.files).load()
    fault = Fault(task, before.id if before else "", device, number, at, lasting)
    node.watch = fault.watch
    drive(node, fault)
    if fault.met <= at:
        return False
    check_at_rest(node, fault, ETCD if task != "first-boot" else {})
    fault.mend(node)
    drive(node, fault)
    if node.running is None:
        node.power_on()
    if not _done(node, fault, "reinstall"):  # as the node advises
        advised = "reinstall" in duties.decide(node.world(), Journal(node.files).load()).hint
        node.machine.sleep(1)
        runner.submit(node.world(), "reinstall" if advised else task, {} if advised else args, requested_by="operator")
        drive(node, fault)
        if node.running is None:
            node.power_on()
    assert _done(node, fault, "reinstall"), last(node).note
    assert node._content(Slot.WORKING) == release and node.running is Slot.WORKING
    assert node._content(Slot.IMAGE) == (2 if task == "update" else release)
    return True


def _done(node: FakeNode, fault: Fault, *others: str) -> bool:
    """The task, or one of the others; what was done before the fault does not count."""
    txn = Journal(node.files).load()
    return (txn is not None and txn.id != fault.before
            and (txn.state, txn.task in (fault.task, *others)) == (TxnState.DONE, True))


def every_point(task: str, loader: str, device: str, every: int, kinds: Sequence[tuple[int, bool]]) -> int:
    """Each kind of fault begins at another point, so that a sample meets more of them. Returns the number of runs."""
    runs = 0
    for number, lasting in kinds:
        for at in range(runs % every, 10_000, every):
            try:
                met = run(task, loader, device, number, at, lasting)
            except BaseException as error:
                raise AssertionError(f"{device}, point {at}, {'lasting' if lasting else 'once'}, "
                                     f"{errno.errorcode[number]}: {error!r}") from error
            if not met:
                break
            runs += 1
    assert runs, "no fault was met"
    return runs


def tell(task: str, loader: str, device: str, runs: int) -> None:
    print(f"\n{task} ({loader}), {device}: {runs} runs")


@pytest.mark.fault(21)
@pytest.mark.fault(7)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("loader", ["systemd-boot", "grub"])
@pytest.mark.parametrize("task", TASKS)
def test_some_writes_fail(task: str, loader: str, device: str) -> None:
    """A sample, for a developer's loop."""
    tell(task, loader, device, every_point(task, loader, device, 74, (FULL, *OTHERS)))


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.fault(7)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("loader", ["systemd-boot", "grub"])
@pytest.mark.parametrize("task", TASKS)
def test_full_at_every_write(task: str, loader: str, device: str) -> None:
    tell(task, loader, device, every_point(task, loader, device, 1, [FULL]))


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("loader", ["systemd-boot", "grub"])
@pytest.mark.parametrize("task", TASKS)
def test_every_write_fails(task: str, loader: str, device: str) -> None:
    every = int(os.environ.get("K8R_FAULT_EVERY", "10"))
    tell(task, loader, device, every_point(task, loader, device, every, OTHERS))
