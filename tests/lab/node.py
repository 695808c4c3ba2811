"""One virtual node: a machine with its own firmware variables, disks, console and address."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.lab.accel import TB_SIZE, acceleration, firmware, pflash
from tests.lab.disks import DiskImage
from tests.lab.network import Network
from tests.lab.qmp import Qmp, QmpError
from tests.lab.serial import Serial

# An emulated node that works needs seconds to shake hands. One that is down is not waited for: nobody has its address.
SSH_OPTIONS = ("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
               "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=5",
               "-o", "ServerAliveCountMax=6", "-o", "IdentitiesOnly=yes", "-o", "PreferredAuthentications=publickey")

RESET_BY_WATCHDOG = "reset by the watchdog of the machine"


class CommandError(RuntimeError):
    pass


@dataclass(frozen=True, kw_only=True)
class Drive:
    """`log`: every write and flush is recorded there in the format of dm-log-writes (blklogwrites). `bad`: offset of
    a sector that cannot be read."""

    image: Path
    bus: str = "virtio"  # or "scsi", as sticks and card readers are seen; the lab's kernel knows no USB
    log: Path | None = None
    bad: int | None = None


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


def rest_after(asked: float, *, every: float = 2.0, rest: float = 2.0) -> float:
    """Seconds until the next question: to answer costs an emulated node as much as its work does, so it is left alone
    for `every` seconds, or for `rest` times as long as the answer to what was `asked` at that time took."""
    return max(every, min(rest * (time.monotonic() - asked), 20.0))


class Node:
    """Off until start(). `disk` and the firmware variables survive stop() and cut().

    One CPU: with two, the firmware's processors wait for each other in a loop, for a minute when the host is busy.
    """

    def __init__(self, name: str, *, disk: Path, network: Network, key: Path, workdir: Path, memory: int = 1024,
                 cpus: int = 1, more: Sequence[Drive] = (), log: Path | None = None, watchdog: bool = True,
                 tb_size: int = TB_SIZE, echo: Callable[[str], None] | None = None) -> None:
        self.name, self.network, self.key, self.workdir = name, network, key, workdir
        self.index = network.join()
        self.disk = DiskImage(disk)
        self.memory, self.cpus, self.tb_size, self.watchdog, self.echo = memory, cpus, tb_size, watchdog, echo
        self.drives = [Drive(image=disk, log=log), *more]
        self.tap = ""
        self.qemu: subprocess.Popen[bytes] | None = None
        self._power, self._over = threading.RLock(), threading.Event()
        workdir.mkdir(parents=True, exist_ok=True)
        self.variables = workdir / "OVMF_VARS.fd"
        if not self.variables.exists():
            shutil.copyfile(firmware().vars, self.variables)
        self.console = workdir / "serial.log"

    # power

    def start(self) -> Node:
        assert self.qemu is None, f"{self.name} is on"
        self.tap, self.serial = self.network.tap(), Serial(self.console, echo=self.echo)
        try:
            qemu = self._spawn("power on")
        except (OSError, QmpError):
            self.cut()
            raise RuntimeError((self.workdir / "qemu.log").read_text()[-2000:]) from None
        self._over = threading.Event()
        threading.Thread(target=self._keep_on, args=(qemu, self._over), name=f"power {self.name}", daemon=True).start()
        return self

    @property
    def on(self) -> bool:
        """False as well when the node switched itself off."""
        return self.qemu is not None and not self._over.is_set()

    def _spawn(self, what: str) -> subprocess.Popen[bytes]:
        ours, theirs = socket.socketpair()
        with theirs, (self.workdir / "qemu.log").open("ab") as errors:
            self.qemu = subprocess.Popen([*self.network.prefix(), *self._argv(theirs.fileno())],
                                         stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
                                         pass_fds=[theirs.fileno()])
        assert self.qemu.stdout is not None
        self.serial.attach(self.qemu.stdout, what)
        self.qmp = Qmp(ours)
        return self.qemu

    def _keep_on(self, qemu: subprocess.Popen[bytes], over: threading.Event) -> None:
        """A guest's reset ends QEMU, and a new one goes on: one that keeps what it translated before the reset takes a
        minute to get through the firmware again, a new one five seconds."""
        while True:
            qemu.wait()
            with self._power:
                again = self.qemu is qemu and self.qmp.why_it_ended() == "guest-reset"  # and not cut
                if again:
                    self.serial.join()
                    self.qmp.close()
                    with contextlib.suppress(OSError, QmpError):  # QEMU's words are in qemu.log
                        qemu = self._spawn(RESET_BY_WATCHDOG if self.qmp.watchdog_fired() else "reset")
                        continue
                over.set()
                return

    def _argv(self, monitor: int) -> list[str]:
        argv = ["qemu-system-x86_64", "-name", self.name, "-machine", "q35", *acceleration(self.tb_size),
                "-smp", str(self.cpus), "-m", str(self.memory), "-display", "none", "-nodefaults",
                "-no-reboot", *pflash(firmware().code, self.variables),
                "-chardev", "stdio,id=serial,signal=off", "-serial", "chardev:serial",
                "-chardev", f"socket,id=monitor,fd={monitor}", "-mon", "chardev=monitor,mode=control",
                "-device", "virtio-rng-pci", "-device", "virtio-scsi-pci,id=scsi",
                "-netdev", f"tap,id=net,ifname={self.tap},script=no,downscript=no",
                "-device", f"virtio-net-pci,netdev=net,mac={self.network.mac(self.index)},romfile="]
        if self.watchdog:
            argv += ["-device", "i6300esb", "-action", "watchdog=reset"]
        for number, drive in enumerate(self.drives):
            argv += self._drive(number, drive)
        return argv

    def _drive(self, number: int, drive: Drive) -> list[str]:
        # A killed QEMU leaves everything written in the host's page cache, so flushing it would only cost time.
        file, top = f"file{number}", f"node{number}"
        argv = ["-blockdev", f"driver=file,node-name={file},filename={drive.image},discard=unmap,"
                             "cache.no-flush=on,cache.direct=off"]
        source = file
        if drive.log:
            append = "on" if drive.log.exists() and drive.log.stat().st_size else "off"
            drive.log.touch()
            argv += ["-blockdev", f"driver=file,node-name=log{number},filename={drive.log},cache.no-flush=on",
                     "-blockdev", f"driver=blklogwrites,node-name=logged{number},file={file},log=log{number},"
                                  f"log-append={append}"]
            source = f"logged{number}"
        if drive.bad is not None:
            rule = "inject-error.0"
            argv += ["-blockdev", f"driver=blkdebug,node-name=bad{number},image={source},{rule}.event=none,"
                                  f"{rule}.iotype=read,{rule}.errno=5,{rule}.once=off,"
                                  f"{rule}.sector={drive.bad // 512}"]
            source = f"bad{number}"
        flush = "off" if drive.log else "on"
        argv += ["-blockdev", f"driver=raw,node-name={top},file={source},cache.no-flush={flush},discard=unmap"]
        if drive.bus == "scsi":
            return [*argv, "-device", f"scsi-hd,bus=scsi.0,id=disk{number},drive={top},bootindex={number}"]
        # QEMU 7.2 may log "write zeroes" in two parts with others in between, which nobody can read; and the log's own
        # header makes a merged write one of more pieces than the host takes at once: an I/O error.
        plain = ",write-zeroes=off,request-merging=off" if drive.log else ""
        return [*argv, "-device", f"virtio-blk-pci,id=disk{number},drive={top},serial=lab{number},bootindex={number}"
                                  f"{plain}"]

    def cut(self) -> None:
        """Pull the plug."""
        with self._power:
            if self.qemu is None:
                return
            self.qemu.send_signal(signal.SIGKILL)
            self.qemu.wait()
            self.qemu = None
        self.serial.join()
        with contextlib.suppress(OSError, AttributeError):
            self.qmp.close()
        self.network.drop_tap(self.tap)

    def stop(self, *, timeout: float = 120.0) -> None:
        """Press the power button; pull the plug when that does not help."""
        with contextlib.suppress(Exception):
            self.qmp.command("system_powerdown")
        end = time.monotonic() + timeout
        while self.on and time.monotonic() < end:
            time.sleep(0.2)
        self.cut()

    def plug(self, image: Path) -> None:
        """A disk that comes while the node runs, and stays."""
        number = len(self.drives)
        self.qmp.command("blockdev-add", **{"driver": "raw", "node-name": f"node{number}",
                                            "file": {"driver": "file", "filename": str(image)}})
        self.qmp.command("device_add", driver="scsi-hd", bus="scsi.0", id=f"disk{number}", drive=f"node{number}")
        self.drives.append(Drive(image=image, bus="scsi"))

    # the running system

    @property
    def address(self) -> str:
        return self.network.address(self.index)

    def ssh_argv(self, command: str, *, user: str = "root", options: Sequence[str] = ()) -> list[str]:
        return [*self.network.prefix(), "ssh", *SSH_OPTIONS, "-i", str(self.key), *options,
                f"{user}@{self.address}", command]

    def try_ssh(self, command: str, *, timeout: float = 120.0, user: str = "root", stdin: bytes = b"") -> Done:
        """Code 255: no connection, or it broke."""
        try:
            done = subprocess.run(self.ssh_argv(command, user=user), capture_output=True, timeout=timeout, input=stdin)
        except subprocess.TimeoutExpired as error:
            return Done(255, (error.stdout or b"").decode("utf-8", "replace"), f"no answer within {timeout:g} s")
        return Done(done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace"))

    def ssh(self, command: str, *, timeout: float = 120.0, user: str = "root", stdin: bytes = b"",
            ok: Sequence[int] = (0,)) -> str:
        done = self.try_ssh(command, timeout=timeout, user=user, stdin=stdin)
        if done.code not in ok:
            raise CommandError(f"{self.name}: {command}: exit code {done.code}\n{done.out[-3000:]}{done.err[-3000:]}")
        return done.out

    def wait_ssh(self, *, timeout: float = 240.0, user: str = "root") -> str:
        """Until somebody can log in; the boot ID."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            done = self.try_ssh("cat /proc/sys/kernel/random/boot_id", timeout=20, user=user)
            if done.code == 0:
                return done.out.strip()
            if not self.on:
                raise RuntimeError(f"{self.name} is off; last on the console:\n{self.tail()}")
            time.sleep(1)
        raise TimeoutError(f"{self.name}: no SSH within {timeout:g} s; last on the console:\n{self.tail()}")

    def wait_boot(self, not_this: str, *, timeout: float = 300.0) -> str:
        """Until a boot other than `not_this` gives SSH; its ID."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            with contextlib.suppress(TimeoutError):
                if (boot := self.wait_ssh(timeout=min(30.0, end - time.monotonic()))) != not_this:
                    return boot
            time.sleep(1)
        raise TimeoutError(f"{self.name}: no other boot within {timeout:g} s; last on the console:\n{self.tail()}")

    def wait_until(self, test: Callable[[Node], bool], what: str, *, timeout: float, every: float = 2.0,
                   rest: float = 2.0) -> None:
        """`test` may meet a node that is down just now (CommandError). Between two questions: see rest_after()."""
        end = time.monotonic() + timeout
        while (asked := time.monotonic()) < end:
            with contextlib.suppress(CommandError):
                if test(self):
                    return
            time.sleep(rest_after(asked, every=every, rest=rest))
        raise TimeoutError(f"{self.name}: {what}: not within {timeout:g} s; last on the console:\n{self.tail()}")

    def tail(self, lines: int = 15) -> str:
        return "\n".join(text for _, text in self.serial.lines[-lines:])

    def milestones(self) -> str:
        return "\n".join(f"{when:8.1f} s  {name}" for when, name in self.serial.milestones)

    def collect(self, to: Path) -> None:
        """What a person needs to understand a failure: console, QEMU's messages, the journal, the agent's state."""
        to.mkdir(parents=True, exist_ok=True)
        if self.on:
            for name, command in {
                "journal.txt": "journalctl --no-pager -o short-precise",
                "agent.txt": "k8r-agent status; k8r-agent events; cat /run/k8r/boot; findmnt; "
                             "cd /var/lib/k8r && tail -n +1 *.json* queue/* ; ls -lR /boot/firmware",
            }.items():
                done = self.try_ssh(command, timeout=60)
                (to / name).write_text(done.out + done.err)
        self.cut()
        for log in (self.console, self.workdir / "qemu.log"):
            if log.exists():
                shutil.copyfile(log, to / f"{self.name}-{log.name}")
        with contextlib.suppress(Exception):
            self.disk.ext_dump(3, "/var/log/journal", to / f"{self.name}-journal-on-disk")
            self.disk.ext_dump(4, "/", to / f"{self.name}-state-on-disk")


def failure(node: Node) -> str:
    """Why QEMU ended, with its last words; "" when the guest switched itself off."""
    why = node.qmp.why_it_ended()
    if why == "guest-shutdown":
        return ""
    log = (node.workdir / "qemu.log").read_text(errors="replace")
    return f"QEMU ended ({why or 'nobody knows why'}): {log[-1000:]}"
