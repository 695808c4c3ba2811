"""A full file system or an I/O error at every write: the product's engine over the disks of the crash matrix.

At the k-th point something fails: once, or from then on until somebody mends it. The node must stay bootable and say
what is wrong; once it is mended, the same task ends well. `make matrix` fills it up at each point there is, and tries
the other faults at every tenth (K8R_FAULT_EVERY).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from k8r_agent import runner
from k8r_agent.engine import Outcome
from k8r_agent.errors import BootError, DiskError, K8rError, Refused, StateError
from k8r_agent.model.slots import Slot
from k8r_agent.model.txn import TxnState
from k8r_agent.steps import duties
from k8r_agent.store.journal import Journal
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


def _state(number: int, point: str) -> K8rError:
    return StateError("cannot write to the state partition", why=os.strerror(number), hint="free space on it")


def _boot(number: int, point: str) -> K8rError:
    """What is overwritten in place finds its room."""
    if number == errno.ENOSPC and point.endswith((":put-before", ":put-half", ":put-cached")):
        return Refused("the boot partition is full", hint="remove what does not belong to k8r")
    return BootError("cannot write to the boot partition", why=os.strerror(errno.EIO))


def _disk(number: int, point: str) -> K8rError:
    return DiskError("cannot write", why=os.strerror(number))


# Which points belong to which device, and what its writing calls raise.
DEVICES: dict[str, tuple[tuple[str, ...], Callable[[int, str], K8rError]]] = {
    "the state partition": (("files:",), _state),
    "the boot partition": (("boot:", "efi:"), _boot),
    "the disk": (("disk:", "table:", "mkfs:", "grow:", "mount:"), _disk),
}
SESSIONS = 40
FULL = (errno.ENOSPC, True)  # the error, and whether it lasts
OTHERS = ((errno.ENOSPC, False), (errno.EIO, False), (errno.EIO, True))


@dataclass
class Fault:
    """The `at`-th point of a device fails; with `lasting` all that follow do too."""

    device: str
    number: int
    at: int
    lasting: bool
    met: int = 0
    on: bool = True
    primary: Slot | None = None
    said: list[str] = field(default_factory=list)

    def watch(self, node: FakeNode, name: str) -> None:
        self.primary = invariants(node, name, self.primary or node.loader.decided())
        prefixes, error = DEVICES[self.device]
        if not self.on or not name.startswith(prefixes):
            return
        self.met += 1
        if self.met - 1 == self.at or (self.lasting and self.met > self.at):
            if name.startswith("boot:"):
                self._settle(node)
            raise error(self.number, name)

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


def drive(node: FakeNode, fault: Fault) -> Outcome | None:
    """Until two power cycles in a row bring nothing new. A runner that ends with an error is started again a few
    times, as its unit says."""
    quiet, outcome, failures = 0, None, 0
    for _ in range(SESSIONS):
        if node.running is None:
            node.power_on()
        try:
            outcome = node.session()
        except K8rError as error:
            assert error.what and (error.why or error.hint)
            fault.said.append(str(error))
            failures += 1
            if failures % 3:
                node.kill()
                continue
            outcome = None
        if outcome is not Outcome.REBOOTING:
            quiet += 1
        if quiet == 2 or failures >= 6:
            return outcome
        node.shut_down()
    raise AssertionError(f"not at rest after {SESSIONS} boots; {fault.said[-3:]}")


def explained(node: FakeNode, fault: Fault) -> bool:
    """Somebody who looks can find out: the last transaction says why, the node's duty does, or the runner did."""
    txn = Journal(node.files).load()
    if txn is not None and txn.state is TxnState.DONE:
        return True
    return bool(fault.said) or bool(txn and txn.note) or bool(duties.decide(node.world(), txn).why)


def check_at_rest(node: FakeNode, fault: Fault, precious: dict[str, bytes]) -> None:
    assert explained(node, fault), "nothing says what is wrong"
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
    fault = Fault(device, number, at, lasting)
    node.watch = fault.watch
    drive(node, fault)
    if fault.met <= at:
        return False
    check_at_rest(node, fault, ETCD if task != "first-boot" else {})
    fault.on = False  # mended
    if node.running is None:
        node.power_on()
    drive(node, fault)
    if node.running is None:
        node.power_on()
    if not _done(node, task):  # as the node advises
        advised = "reinstall" in duties.decide(node.world(), Journal(node.files).load()).hint
        node.machine.sleep(1)
        runner.submit(node.world(), "reinstall" if advised else task, {} if advised else args, requested_by="operator")
        drive(node, fault)
        if node.running is None:
            node.power_on()
    assert _done(node, task), last(node).note
    assert node._content(Slot.WORKING) == release and node.running is Slot.WORKING
    assert node._content(Slot.IMAGE) == (2 if task == "update" else release)
    return True


def _done(node: FakeNode, task: str) -> bool:
    txn = Journal(node.files).load()
    return txn is not None and txn.state is TxnState.DONE and txn.task in (task, "reinstall")


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
