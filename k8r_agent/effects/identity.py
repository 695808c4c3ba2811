"""What makes a node itself: kept on the state partition, put back into every freshly written system.

Copies, not bind mounts, with one exception. passwd, shadow and hostname are replaced by rename, which fails on a
bound file; a bound directory would be empty on a node whose state partition cannot be read, and take SSH away with
it. So k8r-identity.path captures within seconds of a change, and so do every shutdown and every reinstall; each copy
is replaced as a whole. The exception is /etc/k8r, which the initramfs binds: the agent's own settings must be the
same in both slots while they change.

From the boot on after that in which it was first kept, the copy of /etc/k8r is the original. Where it is not bound all
the same (no state partition at boot, and mounted since), what stands there is the slot's own, which nobody asked for.

A working slot that was once given the identity (STAMP) is then the truth, and the state partition its copy: a user
deleted just before a power cut does not come back. What k8r.toml says is applied at every boot, into /run.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from k8r_agent.config.settings import Settings
from k8r_agent.effects import accounts, ownnetwork
from k8r_agent.effects.commands import commands
from k8r_agent.effects.ownnetwork import PLACES
from k8r_agent.effects.placing import place, read, read_within, taken_out
from k8r_agent.effects.statefiles import StateDirectory
from k8r_agent.errors import K8rError, StateError
from k8r_agent.ports.commands import Commands
from k8r_agent.ports.statefiles import StateFiles

log = logging.getLogger("k8r-agent")

BOOT_ID = "proc/sys/kernel/random/boot_id"
STAMP = "etc/k8r-identity.applied"  # on the slot's own file system, so a fresh copy of the image has none
_MACHINE_ID = re.compile(r"[0-9a-f]{32}")
_HOSTNAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,62}[A-Za-z0-9])?(\.[A-Za-z0-9-]+)*")
_ACCOUNTS = {"passwd": 0o644, "shadow": 0o640, "group": 0o644, "gshadow": 0o640}
_MAX = 1 << 20  # bytes of one file worth keeping


class NodeIdentity:
    """The Identity port, and apply(), which the boot needs before anything else runs."""

    def __init__(self, *, files: StateFiles, settings: Settings | None = None, commands: Commands | None = None,
                 root: Path = Path("/"), set_hostname: Callable[[str], None] = socket.sethostname) -> None:
        self._files, self._settings, self._commands = files, settings or Settings(), commands
        self._root, self._set_hostname = root, set_hostname
        self._store = (lambda: files.root) if isinstance(files, StateDirectory) else None

    # capture

    def capture(self) -> None:
        """In the image slot only when nothing is kept yet (first boot): its overlay forgets, and knows less than the
        copy. A working slot that was not given all of the kept identity (a fresh copy of the image whose apply()
        failed) has nothing to say about it either. Raises StateError."""
        if self._foreign():
            return
        found = self._collect()
        self._assert_whole(found)
        if not self._image_slot() and self._kept("users.json") is None:
            self._stamp()
        for name, (data, mode) in found.items():
            if self._files.read(f"identity/{name}") != data:
                self._files.write(f"identity/{name}", data)
            self._chmod(name, mode)
        for name in self._forgotten(found):
            self._files.remove(f"identity/{name}")
        if not self._bound() and not self._own_settings():
            log.warning("/etc/k8r is not the kept one, and no change there is kept: reboot to have the kept one back")

    def captured(self) -> bool:
        """In the working slot: what is kept is what the system has now."""
        foreign = self._foreign()
        if foreign or self._image_slot():
            return foreign
        found = self._collect()
        return bool(found) and not any(self._forgotten(found)) and all(
            self._files.read(f"identity/{name}") == data for name, (data, _) in found.items())

    def _foreign(self) -> bool:
        """Is what is kept the original, and not what this system has?"""
        if self._image_slot():
            return self._kept("machine-id") is not None
        return self._kept("users.json") is not None and not (self._root / STAMP).exists()

    def _assert_whole(self, found: dict[str, tuple[bytes, int]]) -> None:
        """A file that a power cut or a slip of the hand emptied is no reason to forget what it said."""
        lost = ""
        if self._kept("machine-id") is not None and "machine-id" not in found:
            lost = "machine-id"
        elif self._kept("users.json") is not None:
            lost = accounts.rootless(self._accounts())
        if lost:
            raise StateError(f"/etc/{lost} of this system is empty, damaged or gone",
                             why="the identity is not captured from this system: what is kept stays as it is",
                             hint=f"restore /etc/{lost}" + (f" (is /etc/{lost}- whole?)" if lost in _ACCOUNTS else ""))

    def _forgotten(self, found: dict[str, tuple[bytes, int]]) -> Iterator[str]:
        """Kept, and taken out of the system since. What is not there for another reason is not forgotten: a home that
        is not mounted, a directory that is gone as a whole, the last host key and the host name (the next boot puts
        them back), what only a later agent knows."""
        homes = dict(self._homes(accounts.pick(self._accounts())))
        other_keys, own_settings = any(name.startswith("ssh/") for name in found), self._own_settings()
        for name in (name for name in self._names() if name not in found):
            kind, _, leaf = name.partition("/")
            gone = (kind == "ssh" and other_keys) or (kind == "etc-k8r" and own_settings)
            if kind == "authorized_keys":
                gone = leaf not in homes or taken_out(homes[leaf], homes[leaf] / ".ssh/authorized_keys")
            elif kind == "network" and leaf.split("/")[0] in PLACES:
                which, _, leaf = leaf.partition("/")
                gone = taken_out(self._root / PLACES[which], self._root / PLACES[which] / leaf)
            if gone:
                yield name

    def _stamp(self) -> None:
        """Not by what is kept in memory: a fresh slot that never saw the kept identity would be its original then."""
        if self._files.persistent():
            place(self._root / STAMP, b"The node's identity was put into this system, which is the original now.\n")

    def _collect(self) -> dict[str, tuple[bytes, int]]:
        found: dict[str, tuple[bytes, int]] = {}
        machine_id = (read(self._root / "etc/machine-id") or b"").decode("ascii", "replace").strip()
        if _MACHINE_ID.fullmatch(machine_id):
            found["machine-id"] = (machine_id.encode() + b"\n", 0o600)
        if name := self._hostname():
            found["hostname"] = (name.encode() + b"\n", 0o600)
        for path in sorted((self._root / "etc/ssh").glob("ssh_host_*_key*")):
            self._take(found, f"ssh/{path.name}", path)
        people = accounts.pick(self._accounts())
        found["users.json"] = (people.to_json(), 0o600)
        for user, home in self._homes(people):
            self._take(found, f"authorized_keys/{user}", home / ".ssh/authorized_keys", top=home)
        for kind, directory in PLACES.items():
            for path in sorted((self._root / directory).glob("*")):
                self._take(found, f"network/{kind}/{path.name}", path)
        top = self._root / "etc/k8r"
        boot_id = read(self._root / BOOT_ID)
        for directory, _, leaves in os.walk(top) if self._own_settings() else ():
            for leaf in leaves:
                path = Path(directory, leaf)
                if boot_id is not None:
                    found["etc-k8r.boot"] = (boot_id, 0o600)
                self._take(found, f"etc-k8r/{path.relative_to(top)}", path)
        return found

    def _own_settings(self) -> bool:
        """Is /etc/k8r the slot's own, and the original? Until it is first kept, and for the rest of that boot."""
        if self._bound():
            return False
        boot_id = read(self._root / BOOT_ID)
        return not self._names("etc-k8r") or (boot_id is not None and self._kept("etc-k8r.boot") == boot_id)

    def _bound(self) -> bool:
        """/etc/k8r is its copy already, bound by the initramfs: nothing to copy, and above all nothing to remove."""
        if self._store is None:
            return False
        try:
            return os.path.samefile(self._root / "etc/k8r", self._store() / "identity/etc-k8r")
        except OSError:
            return False

    def _take(self, found: dict[str, tuple[bytes, int]], name: str, path: Path, *, top: Path | None = None) -> None:
        """Regular files only: what a link points to belongs to somebody else. `top`: from where on it is not root
        alone who says what is there."""
        taken = None if name.endswith(".tmp") else read_within(top or path.parent, path, limit=_MAX + 1)
        if taken is None:
            return
        data, mode = taken
        if len(data) > _MAX:
            log.warning("%s is too large to be kept as identity", path)
            return
        found[name] = (data, 0o755 if mode & 0o100 else 0o644)

    def _names(self, below: str = "") -> tuple[str, ...]:
        """All kept files, relative to identity/."""
        return tuple(sorted(self._walk(below)))

    def _walk(self, below: str) -> Iterator[str]:
        for name in self._files.names(f"identity/{below}".rstrip("/")):
            path = f"{below}/{name}".lstrip("/")
            inner = list(self._walk(path))
            if inner:
                yield from inner
            elif self._kept(path) is not None:
                yield path

    def _kept(self, name: str) -> bytes | None:
        try:
            return self._files.read(f"identity/{name}")
        except StateError:
            return None  # a directory

    def _chmod(self, name: str, mode: int) -> None:
        """/etc/k8r is used in place after the initramfs has bound it: hooks must stay executable, and the settings
        readable for `k8r-agent check`, which is nobody. Everything else stays 0600."""
        if self._store is None or not name.startswith("etc-k8r/"):
            return
        path = self._store() / "identity" / name
        for part in (path.parent, *path.parent.parents):
            os.chmod(part, 0o755)
            if part.name == "etc-k8r":
                break
        os.chmod(path, mode)

    # apply

    def apply(self) -> tuple[str, ...]:
        """At every boot of either slot, before the network and sshd. Goes on after a failure and reports all of them
        in the end; without a state partition what k8r.toml says still holds. Returns what was changed."""
        done: list[str] = []
        failed: list[str] = []
        parts: list[Callable[[], Iterator[str]]] = [self._apply_hostname, self._apply_access, self._apply_network]
        stamped = (self._root / STAMP).exists()
        if not stamped:
            parts = [self._restore_users, self._restore_keys, self._restore_network, *parts]
        for part in [*parts, self._apply_host_keys]:
            try:
                done.extend(part())
            except (OSError, ValueError, K8rError) as error:
                log.error("identity: %s", error)
                failed.append(str(error))
        if not stamped and not failed and self._kept("users.json") is not None:
            self._stamp()
        if failed:
            raise StateError("the node's identity could not be applied completely", why="; ".join(failed))
        return tuple(done)

    def _apply_hostname(self) -> Iterator[str]:
        """k8r.toml, else the original of the kept and the present one, else a name of its own (DHCP servers and
        people tell nodes apart by it). Derived, because a machine-id is not to be shown (machine-id(5))."""
        kept = (self._kept("hostname") or b"").decode("ascii", "replace").strip()
        names = [kept if _HOSTNAME.fullmatch(kept) else "", self._hostname()]
        if (self._root / STAMP).exists():
            names.reverse()
        name = self._settings.node.hostname or names[0] or names[1]
        if not name:
            machine_id = read(self._root / "etc/machine-id") or os.urandom(16)
            name = "node-" + hashlib.sha256(b"k8r hostname" + machine_id.strip()).hexdigest()[:8]
        if place(self._root / "etc/hostname", name.encode() + b"\n"):
            yield f"hostname {name}"
        if os.uname().nodename != name:
            self._set_hostname(name)
        hosts = self._root / "etc/hosts"
        lines = (read(hosts) or b"127.0.0.1\tlocalhost\n::1\tlocalhost\n").decode("utf-8", "replace").splitlines()
        lines = [line for line in lines if not line.startswith("127.0.1.1")] + [f"127.0.1.1\t{name}"]
        place(hosts, ("\n".join(lines) + "\n").encode())

    def _apply_access(self) -> Iterator[str]:
        """Keys of k8r.toml go to a file of their own in /run (etc/ssh/sshd_config.d/50-k8r.conf names it): a key
        that is taken out of k8r.toml is gone with the next boot."""
        access = self._settings.access
        if not access.authorized_keys:
            return
        if access.user != "root":
            yield from self._merge(accounts.Accounts(
                groups={access.user: accounts.FIRST}, users=(self._access_user(),)), keep=True)
        keys = "".join(key.strip() + "\n" for key in access.authorized_keys)
        directory = self._root / "run/k8r/authorized_keys"
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        for part in (directory.parent, directory):
            os.chmod(part, 0o755)  # sshd reads them as the user; the service's umask is 077
        if place(directory / access.user, keys.encode(), mode=0o644):
            yield f"{len(access.authorized_keys)} keys of k8r.toml for {access.user}"

    def _access_user(self) -> accounts.User:
        name = self._settings.access.user
        shadow = ("!", "", "0", "99999", "7", "", "", "")
        return accounts.User(name=name, uid=accounts.FIRST, gid=accounts.FIRST, gecos="", home=f"/home/{name}",
                             shell="/bin/bash", shadow=shadow, groups=("adm", "sudo"))

    def _apply_network(self) -> Iterator[str]:
        """A static address before, DHCP after whatever else configures the interface (file names are the order)."""
        network = self._settings.network
        lines = ["[Match]", f"Name={network.interface}", "Kind=!*", "", "[Network]"]
        if network.address:
            name = "10-k8r.network"
            lines += [f"Address={network.address}"]
            lines += [f"Gateway={network.gateway}"] if network.gateway else []
        else:
            name = "80-k8r.network"
            lines += ["DHCP=yes"]
        lines += [f"DNS={server}" for server in network.dns]
        directory = self._root / "run/systemd/network"
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        os.chmod(directory, 0o755)
        if place(directory / name, ("# From k8r.toml\n" + "\n".join(lines) + "\n").encode()):
            yield f"network {network.address or 'by DHCP'}"

    def _apply_host_keys(self) -> Iterator[str]:
        """Kept keys where the system has none or is fresh; new ones where nobody has any."""
        directory = self._root / "etc/ssh"
        if not directory.is_dir():
            return
        for path in directory.glob("ssh_host_*_key"):
            if path.stat().st_size == 0:  # made just before a power cut: sshd would not start with it
                path.unlink()
        present = any(directory.glob("ssh_host_*_key"))
        kept = self._files.names("identity/ssh")
        if kept and (not present or not (self._root / STAMP).exists()):
            for name in kept:
                data = self._kept(f"ssh/{name}")
                if data and place(directory / name, data, mode=0o644 if name.endswith(".pub") else 0o600):
                    yield name
        elif not present and self._commands is not None:
            for kind in ("ed25519", "ecdsa"):  # RSA takes a minute on a slow board, and nobody needs it any more
                self._commands.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f",
                                    os.fspath(directory / f"ssh_host_{kind}_key")])
            yield "new host keys"

    def _restore_users(self) -> Iterator[str]:
        data = self._kept("users.json")
        if data is not None:
            yield from self._merge(accounts.Accounts.from_json(data))

    def _merge(self, people: accounts.Accounts, *, keep: bool = False) -> Iterator[str]:
        """With `keep`, who is already there stays as he is."""
        before = self._accounts()
        if keep:
            there = {user.name for user in accounts.pick(before).users}
            people = accounts.Accounts(users=tuple(u for u in people.users if u.name not in there),
                                       groups={} if there & {u.name for u in people.users} else people.groups)
        after = accounts.merge(before, people)
        for name, mode in _ACCOUNTS.items():
            text: str = getattr(after, name)
            if text and text != getattr(before, name):
                place(self._root / "etc" / name, text.encode("utf-8", "surrogateescape"), mode=mode, keep_owner=True)
                yield f"/etc/{name}"
        wanted = {user.name for user in people.users}
        for user in accounts.pick(after).users:
            if user.name in wanted:
                self._make_home(user)

    def _make_home(self, user: accounts.User) -> None:
        home = self._root / user.home.lstrip("/")
        if home.exists() or not user.home.startswith("/"):
            return
        home.mkdir(mode=0o700, parents=True)
        for path in sorted((self._root / "etc/skel").glob("*")) + sorted((self._root / "etc/skel").glob(".*")):
            if path.is_file():
                place(home / path.name, read(path) or b"", owner=(user.uid, user.gid))
        if os.geteuid() == 0:
            os.chown(home, user.uid, user.gid)

    def _restore_keys(self) -> Iterator[str]:
        owners = {user.name: (user.uid, user.gid) for user in accounts.pick(self._accounts()).users}
        for user, home in self._homes(accounts.pick(self._accounts())):
            data = self._kept(f"authorized_keys/{user}")
            if data is None:
                continue
            directory, owner = home / ".ssh", owners.get(user, (0, 0))
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if directory.is_symlink():
                continue  # on a disk that outlived the reinstall: it may lead anywhere
            if os.geteuid() == 0:
                os.chown(directory, *owner, follow_symlinks=False)
            if place(directory / "authorized_keys", data, mode=0o600, owner=owner):
                yield f"keys of {user}"

    def _restore_network(self) -> Iterator[str]:
        changed = []
        for name in self._names("network"):
            _, kind, leaf = name.split("/", 2)
            data = self._kept(name)
            if kind in PLACES and data is not None:  # else a later agent knows what it is
                changed.append(ownnetwork.put_back(self._root, kind, leaf, data))
        yield from filter(None, changed)
        if self._commands is not None:
            ownnetwork.tell(self._root, changed, self._commands)

    # observe

    def _image_slot(self) -> bool:
        return b"slot=image" in (read(self._root / "run/k8r/boot") or b"").splitlines()

    def _hostname(self) -> str:
        name = (read(self._root / "etc/hostname") or b"").decode("ascii", "replace").strip()
        return name if _HOSTNAME.fullmatch(name) and name != "localhost" else ""

    def _accounts(self) -> accounts.Files:
        return accounts.Files(**{
            name: (read(self._root / "etc" / name) or b"").decode("utf-8", "surrogateescape") for name in _ACCOUNTS})

    def _homes(self, people: accounts.Accounts) -> Iterator[tuple[str, Path]]:
        yield "root", self._root / "root"
        for user in people.users:
            if user.home.startswith("/") and "/" not in user.name:
                yield user.name, self._root / user.home.lstrip("/")


def local(settings: Settings) -> NodeIdentity:
    """This system's own, kept wherever the agent's state is now."""
    return NodeIdentity(files=StateDirectory(), settings=settings, commands=commands())
