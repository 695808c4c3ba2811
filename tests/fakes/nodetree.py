"""A system tree beside a state directory, both in files: what an identity is captured from, and given to."""

from __future__ import annotations

import stat
from pathlib import Path

from k8r_agent.config.settings import Settings
from k8r_agent.effects.identity import NodeIdentity
from k8r_agent.effects.statefiles import StateDirectory
from k8r_agent.errors import CommandFailed
from k8r_agent.ports.commands import Result

KEY = "ssh-ed25519 AAAA operator"
MACHINE_ID = "0123456789abcdef0123456789abcdef"


class KeyGenerator:
    """Stands for ssh-keygen, and for programs that are told of something. `broken`: one of them that complains."""

    broken = ""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def run(self, argv, *, ok=(0,), timeout=60.0, stdin=b""):  # type: ignore[no-untyped-def]
        self.calls.append(list(argv))
        if argv[0] == self.broken:
            raise CommandFailed(f"{argv[0]} failed")
        if argv[0] != "ssh-keygen":
            return Result(0, "", "")
        Path(argv[argv.index("-f") + 1]).write_text("generated")
        return Result(0, "", "")


class Node:
    """One system tree beside one state directory."""

    def __init__(self, base: Path, name: str, settings: Settings | None = None) -> None:
        self.root, self.state = base / name, base / "state"
        for directory in ("etc/ssh", "etc/skel", "root", "run/k8r", "etc/k8r"):
            (self.root / directory).mkdir(parents=True)
        self.state.mkdir(exist_ok=True)
        self.write("etc/skel/.profile", "# profile\n")
        self.write("etc/passwd", "root:x:0:0:root:/root:/bin/bash\n")
        self.write("etc/shadow", "root:*:20000:0:99999:7:::\n", 0o640)
        self.write("etc/group", "root:x:0:\nsudo:x:27:\nadm:x:4:\n")
        self.write("etc/gshadow", "root:*::\nsudo:*::\nadm:*::\n", 0o640)
        self.keygen, self.hostname = KeyGenerator(), ""
        self.files = StateDirectory(self.state, mounted=lambda path: True)
        self.identity = NodeIdentity(files=self.files, settings=settings or Settings(), commands=self.keygen,
                                     root=self.root, set_hostname=self._name)

    def _name(self, name: str) -> None:
        self.hostname = name

    def write(self, name: str, text: str, mode: int = 0o644) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def text(self, name: str) -> str:
        return (self.root / name).read_text()

    def facts(self, slot: str) -> None:
        self.write("run/k8r/boot", f"slot={slot}\ndisk=vda\n")

    def mode(self, name: str) -> int:
        return stat.S_IMODE((self.root / name).stat().st_mode)


def lived_in(base: Path) -> Node:
    """A working slot on which people have lived."""
    node = Node(base, "old")
    node.facts("working")
    node.write("etc/machine-id", MACHINE_ID + "\n")
    node.write("etc/hostname", "worker-7\n")
    node.write("etc/ssh/ssh_host_ed25519_key", "private", 0o600)
    node.write("etc/ssh/ssh_host_ed25519_key.pub", "public")
    node.write("etc/passwd", node.text("etc/passwd") + "alice:x:1000:1000::/home/alice:/bin/bash\n")
    node.write("etc/shadow", "root:$y$r:20000:0:99999:7:::\nalice:$y$a:20000:0:99999:7:::\n", 0o640)
    node.write("etc/group", "root:x:0:\nsudo:x:27:alice\nadm:x:4:\nalice:x:1000:\n")
    node.write("root/.ssh/authorized_keys", KEY + "\n", 0o600)
    node.write("home/alice/.ssh/authorized_keys", "ssh-rsa alice\n", 0o600)
    node.write("etc/systemd/network/20-static.network", "[Match]\n")
    node.write("etc/netplan/60-own.yaml", "network: {}\n", 0o600)
    node.write("etc/k8r/conf.d/10-own.toml", "# mine\n")
    node.write("etc/k8r/hooks/update/before-x/10-own", "#!/bin/sh\n", 0o755)
    return node
