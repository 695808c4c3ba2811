"""The running system, as far as steps, gates and `status` ask for it."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from k8r_agent.config.settings import NetworkSettings
from k8r_agent.effects import health
from k8r_agent.effects.bus import Bus
from k8r_agent.effects.commands import commands
from k8r_agent.errors import BusError, K8rError

log = logging.getLogger("k8r-agent")

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "armhf", "riscv64": "riscv64"}
# Files that this node wrote with its clock, or that were made before it could run: the present is not before them.
CLOCK_FLOOR = ("usr/lib/k8r/release", "var/lib/k8r/events.jsonl", "var/lib/k8r/transaction.json")


class LocalMachine:
    """The Machine port. `root` is where /proc, /sys and files are looked up; `expected_release` says which release
    the running slot should hold (0: not known)."""

    def __init__(self, *, root: Path = Path("/"), bus: Bus | None = None, network: NetworkSettings | None = None,
                 expected_release: Callable[[], int] = lambda: 0) -> None:
        self._root, self._bus = root, bus or Bus()
        self._network = network or NetworkSettings()
        self._expected_release = expected_release

    def now(self) -> float:
        """A node without a battery clock wakes up in 1970, or at the time of its last shutdown."""
        floor = 0.0
        for name in CLOCK_FLOOR:
            with contextlib.suppress(OSError):
                floor = max(floor, (self._root / name).stat().st_mtime)
        return max(time.time(), floor)

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def boot_id(self) -> str:
        return (self._root / "proc/sys/kernel/random/boot_id").read_text().strip()

    def boot_time(self) -> float:
        """Seconds since the epoch, by the clock as it is now."""
        import psutil

        return float(psutil.boot_time())

    def rename(self, name: str) -> None:
        self._bus.set_hostname(name)

    def memory(self) -> int:
        """Bytes of RAM."""
        import psutil

        return int(psutil.virtual_memory().total)

    def architecture(self) -> str:
        machine = os.uname().machine
        return ARCHITECTURES.get(machine, machine)

    def boards(self) -> tuple[str, ...]:
        """Device tree names, most specific first (/proc/device-tree/compatible); on a PC `generic-x86_64` when it
        booted by UEFI, `generic-x86_64-bios` when not."""
        with contextlib.suppress(OSError):
            names = (self._root / "proc/device-tree/compatible").read_bytes().decode("ascii", "replace").split("\0")
            return (*filter(None, names), f"generic-{self.architecture()}")
        if self.architecture() == "amd64":
            return ("generic-x86_64",) if (self._root / "sys/firmware/efi").is_dir() else ("generic-x86_64-bios",)
        return (f"generic-{self.architecture()}",)

    def reboot(self) -> None:
        """logind; PID 1 where there is no logind; `systemctl` where there is no bus (a boot that hangs early)."""
        for ask in (self._bus.reboot, lambda: self._bus.start_unit("reboot.target", mode="replace-irreversibly")):
            try:
                return ask()
            except BusError as error:
                log.warning("%s", error)
        commands().run(["systemctl", "--no-block", "reboot"])

    @contextlib.contextmanager
    def inhibit(self, why: str) -> Iterator[None]:
        """Without logind nobody can be told: the work goes on, and the journal says that it was not protected."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self._bus.inhibit(why))
            except BusError as error:
                log.warning("%s; a shutdown would not be held back", error)
            yield

    def health(self) -> tuple[health.Checked, ...]:
        return health.observe(root=self._root, network=self._network, failed_units=self._bus.failed_units,
                              running=self.running_release(), expected=self._release_wanted())

    def running_release(self) -> int:
        try:
            text = (self._root / "usr/lib/k8r/release").read_text()
        except OSError:
            return 0
        word = text.split()[0] if text.split() else ""
        return int(word) if word.isdigit() else 0

    def _release_wanted(self) -> int:
        try:
            return self._expected_release()
        except K8rError:
            return 0
