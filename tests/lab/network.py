"""A network of the lab's own: a namespace with a bridge, taps and a DHCP server, that reaches nothing else."""

from __future__ import annotations

import ctypes
import itertools
import os
import shutil
import socket
import subprocess
import threading
from pathlib import Path

CLONE_NEWNET = 0x40000000
GATEWAY = "10.77.0.1"
_count = itertools.count()


def run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout


def _program(name: str) -> str:
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if found is None:
        raise FileNotFoundError(name)
    return found


class Network:
    """Nodes get 10.77.0.10, .11, … by MAC address; the lab itself is 10.77.0.1. No route leads out.

    Several networks do not see each other, so one machine-id may live in each of them.
    """

    def __init__(self, workdir: Path) -> None:
        self.name = f"k8r-lab-{os.getpid()}-{next(_count)}"
        self.workdir = workdir.resolve()  # dnsmasq works in another directory
        self._taps, self._nodes = itertools.count(), itertools.count()
        self._dhcp: subprocess.Popen[bytes] | None = None

    @property
    def gateway(self) -> str:
        return GATEWAY

    def start(self) -> Network:
        self.workdir.mkdir(parents=True, exist_ok=True)
        ip = _program("ip")
        run(ip, "netns", "add", self.name)
        try:
            run(ip, "-n", self.name, "link", "set", "lo", "up")
            run(ip, "-n", self.name, "link", "add", "br0", "type", "bridge")
            run(ip, "-n", self.name, "addr", "add", f"{GATEWAY}/24", "dev", "br0")
            run(ip, "-n", self.name, "link", "set", "br0", "up")
            self._start_dhcp()
        except BaseException:
            self.stop()
            raise
        return self

    def _start_dhcp(self) -> None:
        hosts = [f"--dhcp-host={self.mac(i)},{self.address(i)}" for i in range(32)]
        argv = [*self.prefix(), _program("dnsmasq"), "--keep-in-foreground", "--conf-file=/dev/null", "--user=root",
                "--port=0", "--interface=br0", "--bind-interfaces", "--dhcp-authoritative", "--no-ping",
                "--dhcp-range=10.77.0.100,10.77.0.200,12h", *hosts, "--dhcp-option=option:router",
                f"--dhcp-leasefile={self.leases}", f"--pid-file={self.workdir / 'dnsmasq.pid'}",
                f"--log-facility={self.workdir / 'dnsmasq.log'}", "--log-dhcp"]
        self._dhcp = subprocess.Popen(argv, stdin=subprocess.DEVNULL)

    @property
    def leases(self) -> Path:
        """dnsmasq's: expiry, MAC, address, host name, client id."""
        return self.workdir / "leases"

    def lease(self, index: int) -> list[str]:
        for line in self.leases.read_text().splitlines():
            if (words := line.split())[1] == self.mac(index):
                return words
        raise LookupError(f"no lease for node {index}")

    def join(self) -> int:
        """The index of one more node."""
        return next(self._nodes)

    @staticmethod
    def mac(index: int) -> str:
        return f"52:54:00:77:00:{index + 10:02x}"

    @staticmethod
    def address(index: int) -> str:
        return f"10.77.0.{index + 10}"

    def prefix(self) -> list[str]:
        """Put before a command, it runs inside; it dies with the lab."""
        return [_program("setpriv"), "--pdeathsig", "KILL", _program("nsenter"), f"--net=/run/netns/{self.name}"]

    def tap(self) -> str:
        name, ip = f"tap{next(self._taps)}", _program("ip")
        run(ip, "-n", self.name, "tuntap", "add", "dev", name, "mode", "tap")
        run(ip, "-n", self.name, "link", "set", name, "master", "br0", "up")
        return name

    def drop_tap(self, name: str) -> None:
        run(_program("ip"), "-n", self.name, "link", "del", name)

    def listen(self, port: int = 0) -> socket.socket:
        """A listening socket inside the namespace, for a server that runs in this process."""
        made: list[socket.socket | OSError] = []

        def inside() -> None:
            # The namespace is the thread's; a socket stays in the one it was made in.
            libc = ctypes.CDLL(None, use_errno=True)
            with open(f"/run/netns/{self.name}", "rb") as namespace:
                if libc.setns(namespace.fileno(), CLONE_NEWNET):
                    made.append(OSError(ctypes.get_errno(), "setns"))
                    return
            made.append(socket.create_server((GATEWAY, port), backlog=32))

        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
        if isinstance(made[0], OSError):
            raise made[0]
        return made[0]

    def stop(self) -> None:
        if self._dhcp:
            self._dhcp.kill()
            self._dhcp.wait()
            self._dhcp = None
        subprocess.run([_program("ip"), "netns", "del", self.name], stdin=subprocess.DEVNULL, capture_output=True)
