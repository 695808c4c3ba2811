"""kubeadm, kubelet, kubectl and etcdctl of the running root.

kubeadm and what it starts need far more of the system than the runner's sandbox gives, so it runs in a transient unit
of its own. Its output goes to files and not through a pipe: an agent that is killed takes the reading end with it, and
kubeadm would die at its next line, half-way through.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from k8r_agent.effects import installed
from k8r_agent.effects.commands import FullCommands
from k8r_agent.effects.placing import place, read
from k8r_agent.effects.statefiles import ROOT as STATE
from k8r_agent.effects.statefiles import is_mount
from k8r_agent.errors import BusError, CommandFailed, NoState, Protected, StateError
from k8r_agent.ports.cluster import ETC, ETCD, KUBELET, PKI, As, Probe, Tools
from k8r_agent.ports.commands import Result

UNIT, ETCD_UNIT = "k8r-kubeadm.service", "var-lib-etcd.mount"
PRELOAD_UNIT = "k8r-preload-images.service"
_ANY = range(256)
_ETCD = ("127.0.0.1", 2379)
_POLL = 1.0  # seconds between looks
_KUBEADM_PATIENCE = 1800.0
_OURS = (ETC, KUBELET)


class NodeCluster:
    """The Cluster port. `root` is where the files are looked up, `state` the state partition's mount point."""

    def __init__(self, commands: FullCommands, *, root: Path = Path("/"), state: Path = STATE,
                 run: Path = Path("/run/k8r/kubeadm"), sleep: Callable[[float], None] = time.sleep,
                 mounted: Callable[[Path], bool] = is_mount) -> None:
        self._commands, self._root, self._state, self._run = commands, root, state, run
        self._sleep, self._mounted = sleep, mounted

    # what is there

    def present(self) -> bool:
        return installed.kubernetes(self._root)

    def tools(self) -> Tools:
        return Tools(kubeadm=self._version(["kubeadm", "version", "-o", "short"]),
                     kubelet=self._version(["kubelet", "--version"]))

    def _version(self, argv: Sequence[str]) -> str:
        """`v1.31.4` and `Kubernetes v1.31.4`."""
        try:
            words = self._commands.run(argv).stdout.split()
        except CommandFailed:
            return ""
        return words[-1].removeprefix("v") if words else ""

    # files

    def read(self, path: str) -> bytes | None:
        try:
            return read(self._root / path)
        except OSError as error:
            raise StateError(f"/{path} cannot be read", why=error.strerror or str(error)) from error

    def names(self, directory: str) -> tuple[str, ...]:
        try:
            return tuple(sorted(os.listdir(self._root / directory)))
        except (FileNotFoundError, NotADirectoryError):
            return ()

    def place(self, path: str, data: bytes, *, mode: int = 0o600) -> None:
        target = self._root / path
        try:
            place(target, data, mode=mode)
            _sync_directories(target.parent, self._root)
        except OSError as error:
            raise StateError(f"/{path} cannot be written", why=error.strerror or str(error)) from error

    def link(self, path: str, target: str) -> None:
        at = self._root / path
        temporary = at.with_name(f".{at.name}.k8r")
        try:
            at.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(self._root / target)
            os.replace(temporary, at)
            _sync_directories(at.parent, self._root)
        except OSError as error:
            raise StateError(f"/{path} cannot be written", why=error.strerror or str(error)) from error

    def remove(self, path: str) -> None:
        target = self._root / path
        if not any(path == ours or path.startswith(ours + "/") for ours in _OURS) or ".." in path.split("/"):
            raise Protected(f"/{path} is not removed", why="it is none of what kubeadm writes")
        for mount in self._mounts():
            if mount == target or target in mount.parents:
                raise Protected(f"/{path} is not removed", why=f"{mount} is a mount point")
        try:
            if target.is_dir() and not target.is_symlink():
                import shutil

                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)
            if target.parent.is_dir():
                _sync_directories(target.parent, target.parent)
        except OSError as error:
            raise StateError(f"/{path} cannot be removed", why=error.strerror or str(error)) from error

    def _mounts(self) -> list[Path]:
        with contextlib.suppress(OSError):
            lines = Path("/proc/self/mountinfo").read_text().splitlines()
            return [Path(line.split()[4].encode().decode("unicode_escape")) for line in lines]
        return []

    def sync(self) -> None:
        """Their file systems only: another medium may take minutes."""
        for path in (ETC, KUBELET):
            if (self._root / path).is_dir():
                _sync_file_system(self._root / path)

    # programs

    def kubeadm(self, args: Sequence[str], *, config: str = "", timeout: float, program: str = "kubeadm") -> Result:
        self._wait_for_earlier(timeout)
        self._run.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.chmod(self._run, 0o700)
        argv = [program, *args]
        given = self._run / "config.yaml"
        if config:
            place(given, config.encode(), mode=0o600)
            argv.append(f"--config={given}")
        out, err = self._run / "stdout", self._run / "stderr"
        try:
            result = self._commands.run([
                "systemd-run", "--quiet", "--wait", "--collect", f"--unit={UNIT}",
                f"--property=RuntimeMaxSec={timeout:.0f}",
                f"--property=StandardOutput=truncate:{out}", f"--property=StandardError=truncate:{err}",
                "--property=Description=kubeadm, for k8r-agent", "--setenv=HOME=/root", "--setenv=LC_ALL=C.UTF-8",
                "--", *argv], ok=_ANY, timeout=timeout + 60)
        finally:
            given.unlink(missing_ok=True)
        said = [(read(path) or b"").decode("utf-8", "replace") for path in (out, err)]
        for path in (out, err):  # kubeadm tells its tokens
            path.unlink(missing_ok=True)
        return Result(result.code, said[0], said[1] or result.stderr)

    def _wait_for_earlier(self, timeout: float) -> None:
        """Raises CommandFailed when one that was started by an agent that died does not end."""
        deadline = time.monotonic() + timeout
        while self._active(UNIT):
            if time.monotonic() > deadline:
                raise CommandFailed("an earlier kubeadm is still running", hint=f"systemctl status {UNIT}")
            self._sleep(_POLL)

    def kubectl(self, args: Sequence[str], *, who: As = As.NODE, stdin: bytes = b"", timeout: float = 60.0) -> Result:
        return self._commands.run(["kubectl", f"--kubeconfig={self._root / who.value}", "--cache-dir=/run/k8r/kubectl",
                                   *args], ok=_ANY, timeout=timeout, stdin=stdin)

    def etcdctl(self, args: Sequence[str], *, timeout: float = 60.0) -> Result:
        pki = self._root / PKI / "etcd"
        return self._commands.run(
            ["etcdctl", "--endpoints=https://127.0.0.1:2379", f"--cacert={pki / 'ca.crt'}",
             f"--cert={pki / 'healthcheck-client.crt'}", f"--key={pki / 'healthcheck-client.key'}", *args],
            ok=_ANY, timeout=timeout, env={"ETCDCTL_API": "3"})

    # kubelet and etcd

    def preload_images(self) -> None:
        self._systemctl("start", PRELOAD_UNIT, ok=_ANY, timeout=_KUBEADM_PATIENCE)

    def start_kubelet(self, *, timeout: float) -> None:
        self._systemctl("reset-failed", "kubelet.service", ok=_ANY)
        self._systemctl("restart", "kubelet.service")
        from k8r_agent.effects import kubeapi

        deadline = time.monotonic() + timeout
        while not self.kubelet_running():
            if not self._active("kubelet.service"):
                raise BusError("the kubelet was not started", why="a condition of its unit says no",
                               hint="systemctl status kubelet; journalctl -u kubelet")
            if time.monotonic() > deadline:
                raise BusError(f"the kubelet was not healthy within {timeout:.0f} s",
                               why=kubeapi.kubelet_says() or "it does not answer", hint="journalctl -u kubelet")
            self._sleep(_POLL)

    def wait_for_kubeadm(self) -> None:
        self._wait_for_earlier(_KUBEADM_PATIENCE)

    def stop_kubelet(self) -> None:
        self.wait_for_kubeadm()
        self._systemctl("stop", "kubelet.service", ok=_ANY)

    def kubelet_running(self) -> bool:
        from k8r_agent.effects import kubeapi

        return self._active("kubelet.service") and kubeapi.kubelet_says() == "ok"

    def etcd_running(self) -> bool:
        from k8r_agent.effects import kubeapi

        return kubeapi.listening(_ETCD)

    def keep_etcd(self) -> None:
        kept, there = self._state / "cluster/etcd", self._root / ETCD
        if not self._mounted(self._state):
            raise NoState(f"/{ETCD} is not kept", why="there is no state partition",
                          hint="`k8r-agent status` says why")
        kept.mkdir(mode=0o700, parents=True, exist_ok=True)
        _sync_directories(kept, self._state)
        why = ""
        if not _same(kept, there):
            why = self._systemctl("start", ETCD_UNIT, ok=_ANY).stderr.strip()
        if not _same(kept, there):
            raise NoState(f"/{ETCD} is not the kept directory", why=why or f"{ETCD_UNIT} did not bind it",
                          hint=f"systemctl status {ETCD_UNIT}")

    def etcd_kept(self) -> bool:
        return self._mounted(self._state) and (self._state / "cluster/etcd/member").is_dir()

    def _active(self, unit: str) -> bool:
        said = self._systemctl("is-active", unit, ok=_ANY).stdout.strip()
        return said in ("active", "activating", "deactivating", "reloading")

    def _systemctl(self, verb: str, unit: str, *, ok: Sequence[int] = (0,), timeout: float = 180.0) -> Result:
        try:
            return self._commands.run(["systemctl", verb, unit], ok=ok, timeout=timeout)
        except CommandFailed as error:
            raise BusError(f"systemctl {verb} {unit} failed", why=error.why, hint=f"journalctl -u {unit}") from error

    # around it

    def probe(self, endpoint: str) -> Probe:
        from k8r_agent.effects import kubeapi

        return kubeapi.probe(endpoint)

    def fetch(self, url: str, limit: int) -> bytes:
        from k8r_agent.effects.http import Http

        prefix, _, name = url.rpartition("/")
        with contextlib.closing(Http(prefix)) as http:
            return http.small(name, limit) or b""

    def name(self) -> str:
        return os.uname().nodename.lower()

    def clock(self) -> float:
        return time.time()

    def address(self) -> str:
        from k8r_agent.effects import kubeapi

        return kubeapi.address()

    def fsync_seconds(self) -> float:
        """Raises StateError."""
        times, path = [], self._state / ".fsync"
        try:
            for number in range(5):
                with open(path, "wb") as file:
                    file.write(bytes([number]) * 4096)
                    file.flush()
                    started = time.monotonic()
                    os.fsync(file.fileno())
                    times.append(time.monotonic() - started)
            path.unlink()
        except OSError as error:
            raise StateError("the state partition's latency cannot be measured", why=str(error)) from error
        return sorted(times)[len(times) // 2]

    def hash_seconds(self) -> float:
        import hashlib

        times, data = [], bytes(8 << 20)
        for _ in range(3):
            started = time.monotonic()
            hashlib.sha256(data).digest()
            times.append(time.monotonic() - started)
        return sorted(times)[len(times) // 2]


def _sync_file_system(path: Path) -> None:
    """Raises StateError."""
    import ctypes

    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syncfs(fd):
            raise StateError(f"{path} is not durable", why=os.strerror(ctypes.get_errno()))
    finally:
        os.close(fd)


def _same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _sync_directories(lowest: Path, highest: Path) -> None:
    """From the one that changed up to the first that was there for sure."""
    for directory in (lowest, *lowest.parents):
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        if directory == highest or directory == directory.parent:
            return


