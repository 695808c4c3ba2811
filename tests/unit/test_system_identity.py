"""A node stays itself through a reinstall: three file trees (old working slot, state, fresh system) in a directory."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from k8r_agent.config.settings import AccessSettings, NetworkSettings, NodeSettings, Settings
from k8r_agent.effects.identity import BOOT_ID, STAMP, NodeIdentity
from k8r_agent.effects.statefiles import StateDirectory
from k8r_agent.errors import StateError
from k8r_agent.ports.commands import Result

KEY = "ssh-ed25519 AAAA operator"
MACHINE_ID = "0123456789abcdef0123456789abcdef"


class KeyGenerator:
    """Stands for ssh-keygen."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def run(self, argv, *, ok=(0,), timeout=60.0, stdin=b""):  # type: ignore[no-untyped-def]
        self.calls.append(list(argv))
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


@pytest.fixture
def old(tmp_path: Path) -> Node:
    """A working slot on which people have lived."""
    node = Node(tmp_path, "old")
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


def test_a_fresh_system_becomes_the_same_node(old: Node, tmp_path: Path) -> None:
    assert not old.identity.captured()
    old.identity.capture()
    assert old.identity.captured()
    new = Node(tmp_path, "new")
    new.facts("working")
    new.write("etc/ssh/ssh_host_ed25519_key", "of the image")
    done = new.identity.apply()
    assert "hostname worker-7" in done and new.hostname == "worker-7"
    assert new.text("etc/hostname") == "worker-7\n" and "127.0.1.1\tworker-7\n" in new.text("etc/hosts")
    assert new.text("etc/ssh/ssh_host_ed25519_key") == "private" and new.mode("etc/ssh/ssh_host_ed25519_key") == 0o600
    assert new.mode("etc/ssh/ssh_host_ed25519_key.pub") == 0o644
    assert "alice:x:1000:1000" in new.text("etc/passwd") and "alice:$y$a" in new.text("etc/shadow")
    assert new.text("etc/shadow").startswith("root:$y$r:") and new.mode("etc/shadow") == 0o640
    assert "sudo:x:27:alice" in new.text("etc/group")
    assert new.text("root/.ssh/authorized_keys") == KEY + "\n" and new.mode("root/.ssh/authorized_keys") == 0o600
    assert new.text("home/alice/.ssh/authorized_keys") == "ssh-rsa alice\n" and new.text("home/alice/.profile")
    assert new.mode("home/alice") == 0o700 and new.mode("home/alice/.ssh") == 0o700
    assert new.text("etc/systemd/network/20-static.network") and new.mode("etc/netplan/60-own.yaml") == 0o600
    assert new.keygen.calls == []


def test_what_is_kept_is_secret_but_hooks_stay_executable(old: Node) -> None:
    old.identity.capture()
    for path in (old.state / "identity").rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        if "etc-k8r" not in path.parts:
            assert mode == (0o700 if path.is_dir() else 0o600), path
    assert os.access(old.state / "identity/etc-k8r/hooks/update/before-x/10-own", os.X_OK)
    assert stat.S_IMODE((old.state / "identity/etc-k8r/conf.d/10-own.toml").stat().st_mode) == 0o644


def test_a_working_slot_that_lives_is_the_truth(old: Node, tmp_path: Path) -> None:
    """A user or a key deleted just before a power cut must not come back from the copy."""
    old.identity.capture()
    new = Node(tmp_path, "new")
    new.facts("working")
    new.identity.apply()
    assert (new.root / STAMP).exists()
    new.write("etc/machine-id", MACHINE_ID + "\n")  # which the initramfs did
    passwd = new.text("etc/passwd").replace("alice:x:1000:1000::/home/alice:/bin/bash\n", "")
    new.write("etc/passwd", passwd)
    new.write("etc/hostname", "renamed\n")
    (new.root / "root/.ssh/authorized_keys").unlink()
    (new.root / "etc/systemd/network/20-static.network").unlink()
    assert new.identity.apply() == () and new.hostname == "renamed"
    assert new.text("etc/passwd") == passwd and not (new.root / "root/.ssh/authorized_keys").exists()
    new.identity.capture()
    third = Node(tmp_path, "third")
    third.identity.apply()
    assert "alice" not in third.text("etc/passwd") and not (third.root / "root/.ssh/authorized_keys").exists()


def test_capture_writes_only_what_changed(old: Node) -> None:
    old.identity.capture()
    before = {path: path.stat().st_mtime_ns for path in old.state.rglob("*") if path.is_file()}
    old.write("etc/hostname", "renamed\n")
    assert not old.identity.captured()
    old.identity.capture()
    changed = [path.name for path, when in before.items() if path.stat().st_mtime_ns != when]
    assert changed == ["hostname"]


def test_the_image_slot_never_overwrites_the_copy(old: Node, tmp_path: Path) -> None:
    old.identity.capture()
    image = Node(tmp_path, "image")
    image.facts("image")
    image.write("etc/machine-id", "f" * 32 + "\n")
    image.identity.apply()
    image.write("etc/hostname", "other\n")
    image.identity.capture()
    assert image.identity.captured()
    assert (old.state / "identity/machine-id").read_text() == MACHINE_ID + "\n"
    assert (old.state / "identity/hostname").read_text() == "worker-7\n"


def test_on_first_boot_the_image_slot_gives_the_identity(tmp_path: Path) -> None:
    image = Node(tmp_path, "image")
    image.facts("image")
    image.write("etc/machine-id", MACHINE_ID + "\n")
    assert not image.identity.captured()
    image.identity.apply()
    assert [call[3] for call in image.keygen.calls] == ["ed25519", "ecdsa"]
    image.identity.capture()
    working = Node(tmp_path, "working")
    working.facts("working")
    working.identity.apply()
    assert working.text("etc/ssh/ssh_host_ed25519_key") == "generated" and working.keygen.calls == []
    assert working.text("etc/hostname") == image.text("etc/hostname")


def test_bound_settings_are_left_alone(old: Node) -> None:
    """/etc/k8r is its copy: a file too large to be kept, or a link in it, must not be removed as gone."""
    old.identity.capture()
    kept = old.state / "identity/etc-k8r"
    for path in sorted((old.root / "etc/k8r").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (old.root / "etc/k8r").rmdir()
    (old.root / "etc/k8r").symlink_to(kept)  # stands for the bind mount: the same directory
    (kept / "large").write_bytes(bytes(3 << 20))
    old.identity.capture()
    assert (kept / "large").exists() and (kept / "conf.d/10-own.toml").exists() and old.identity.captured()


def test_settings_are_the_slots_own_in_the_boot_in_which_they_are_first_kept(old: Node) -> None:
    """Nothing is bound before the next boot, and what the owner changes until then must be there afterwards."""
    old.write(BOOT_ID, "first\n")
    old.identity.capture()
    old.write("etc/k8r/agent.toml", "# changed\n")
    (old.root / "etc/k8r/conf.d/10-own.toml").unlink()
    assert not old.identity.captured()
    old.identity.capture()
    assert old.identity.captured()
    assert old.files.read("identity/etc-k8r/agent.toml") == b"# changed\n"
    assert old.files.read("identity/etc-k8r/conf.d/10-own.toml") is None


@pytest.mark.parametrize("kept_by", ["this agent", "an agent that did not say in which boot"])
def test_settings_that_are_not_bound_leave_the_kept_ones_alone(old: Node, caplog: pytest.LogCaptureFixture,
                                                               kept_by: str) -> None:
    """The state partition was mounted after the boot, or somebody unmounted /etc/k8r: there stands the image's."""
    old.write(BOOT_ID, "first\n")
    old.write("etc/k8r/agent.toml", "# the owner's\n")
    old.identity.capture()
    if kept_by != "this agent":
        old.files.remove("identity/etc-k8r.boot")
    old.write(BOOT_ID, "second\n")
    old.write("etc/k8r/agent.toml", "# as shipped\n")
    old.write("etc/k8r/shipped.toml", "# new\n")
    shutil.rmtree(old.root / "etc/k8r/hooks")
    old.write("etc/hostname", "renamed\n")
    caplog.clear()
    old.identity.capture()
    assert "reboot" in caplog.text and old.identity.captured()
    assert old.files.read("identity/hostname") == b"renamed\n"
    assert old.files.read("identity/etc-k8r/agent.toml") == b"# the owner's\n"
    assert old.files.read("identity/etc-k8r/hooks/update/before-x/10-own") == b"#!/bin/sh\n"
    assert old.files.names("identity/etc-k8r") == ("agent.toml", "conf.d", "hooks")


def test_what_is_kept_in_memory_makes_no_slot_the_original(old: Node, tmp_path: Path) -> None:
    """A fresh slot whose first boot found no state partition, and the boot after it."""
    old.identity.capture()
    fresh = Node(tmp_path, "fresh")
    fresh.facts("working")
    fresh.write("etc/machine-id", MACHINE_ID + "\n")
    memory = StateDirectory(tmp_path / "none", volatile=tmp_path / "memory", mounted=lambda path: False)
    without = NodeIdentity(files=memory, commands=fresh.keygen, root=fresh.root, set_hostname=lambda name: None)
    for act in (without.apply, without.capture, without.apply):
        act()
        assert not (fresh.root / STAMP).exists()
    fresh.identity.apply()
    fresh.identity.capture()
    assert "alice" in fresh.text("etc/passwd") and (old.state / "identity/authorized_keys/alice").exists()


def test_without_state_the_way_in_is_k8r_toml(tmp_path: Path) -> None:
    settings = Settings(
        node=NodeSettings(hostname="named"), access=AccessSettings(user="ops", authorized_keys=(KEY, "ssh-rsa two ")),
        network=NetworkSettings(interface="enp1s0", address="10.0.0.5/24", gateway="10.0.0.1", dns=("9.9.9.9",)))
    node = Node(tmp_path, "new", settings)
    node.facts("working")
    node.write("etc/machine-id", MACHINE_ID + "\n")
    node.identity.apply()
    assert node.hostname == "named" and node.keygen.calls
    assert node.text("run/k8r/authorized_keys/ops") == KEY + "\nssh-rsa two\n"
    assert node.mode("run/k8r/authorized_keys/ops") == 0o644
    assert "ops:x:1000:1000::/home/ops:/bin/bash" in node.text("etc/passwd")
    assert "sudo:x:27:ops" in node.text("etc/group")
    text = node.text("run/systemd/network/10-k8r.network")
    assert "Name=enp1s0" in text and "Address=10.0.0.5/24\nGateway=10.0.0.1\nDNS=9.9.9.9" in text
    assert not (node.root / STAMP).exists()
    node.identity.apply()
    assert node.text("etc/passwd").count("\nops:") == 1


def test_a_user_of_k8r_toml_who_exists_is_not_changed(old: Node, tmp_path: Path) -> None:
    settings = Settings(access=AccessSettings(user="alice", authorized_keys=(KEY,)))
    identity = NodeIdentity(files=old.files, settings=settings, commands=old.keygen, root=old.root,
                            set_hostname=lambda name: None)
    before = {name: old.text(f"etc/{name}") for name in ("passwd", "shadow", "group", "gshadow")}
    identity.apply()
    assert {name: old.text(f"etc/{name}") for name in before} == before


def test_a_node_without_a_name_gets_one_that_stays(tmp_path: Path) -> None:
    names = set()
    for number in range(2):
        node = Node(tmp_path, f"n{number}")
        node.write("etc/machine-id", MACHINE_ID + "\n")
        node.identity.apply()
        names.add(node.hostname)
    assert len(names) == 1 and names.pop().startswith("node-") and MACHINE_ID[:8] not in node.hostname


def test_one_failure_does_not_stop_the_rest(old: Node, tmp_path: Path) -> None:
    old.identity.capture()
    (old.state / "identity/users.json").write_text("rubbish")
    settings = Settings(access=AccessSettings(authorized_keys=(KEY,)))
    new = Node(tmp_path, "new", settings)
    new.facts("working")
    with pytest.raises(StateError, match="could not be applied completely"):
        new.identity.apply()
    assert new.text("run/k8r/authorized_keys/root") == KEY + "\n"
    assert new.text("etc/ssh/ssh_host_ed25519_key") == "private" and new.hostname == "worker-7"
    assert not (new.root / STAMP).exists(), "it must be tried again at the next boot"


def test_links_are_not_followed(old: Node) -> None:
    (old.root / "home/alice/.ssh/authorized_keys").unlink()
    (old.root / "home/alice/.ssh/authorized_keys").symlink_to(old.root / "etc/shadow")
    old.identity.capture()
    assert not (old.state / "identity/authorized_keys/alice").exists()


@pytest.mark.parametrize("when", ["before", "while it is read"])
@pytest.mark.parametrize("what", ["authorized_keys", ".ssh"])
def test_nobody_makes_the_capture_read_for_him(old: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str,
                                               when: str) -> None:
    """What is kept is given to him by the next reinstall."""
    ssh, elsewhere = old.root / "home/alice/.ssh", tmp_path / "secrets"
    elsewhere.mkdir()
    (elsewhere / "authorized_keys").write_text("a secret")

    def swap() -> None:
        victim, target = ((ssh / what, elsewhere / what) if what != ".ssh" else (ssh, elsewhere))
        victim.rename(tmp_path / "aside")
        victim.symlink_to(target)
    if when == "before":
        swap()
    else:
        real = os.open

        def opens(path, *args, **kwargs):  # type: ignore[no-untyped-def]
            if str(path) == what and not (tmp_path / "aside").exists():
                swap()
            return real(path, *args, **kwargs)
        monkeypatch.setattr(os, "open", opens)
    old.identity.capture()
    assert (tmp_path / "aside").exists() and not (old.state / "identity/authorized_keys/alice").exists()


def test_what_never_ends_is_not_waited_for(old: Node) -> None:
    keys = old.root / "home/alice/.ssh/authorized_keys"
    keys.unlink()
    os.mkfifo(keys)
    old.identity.capture()
    assert not (old.state / "identity/authorized_keys/alice").exists()
    keys.unlink()
    with keys.open("wb") as file:
        file.truncate(1 << 40)
    old.identity.capture()
    assert not (old.state / "identity/authorized_keys/alice").exists()


def test_a_uninitialised_machine_id_is_not_an_identity(old: Node) -> None:
    old.write("etc/machine-id", "uninitialized\n")
    old.identity.capture()
    assert not (old.state / "identity/machine-id").exists()


def test_network_of_a_later_agent_is_ignored(old: Node, tmp_path: Path) -> None:
    old.identity.capture()
    old.files.write("identity/network/future/x", b"x")
    new = Node(tmp_path, "new")
    new.identity.apply()
    assert (new.root / "etc/netplan/60-own.yaml").exists()


def test_dhcp_is_the_default(tmp_path: Path) -> None:
    node = Node(tmp_path, "new", replace(Settings(), network=NetworkSettings()))
    node.identity.apply()
    assert "DHCP=yes" in node.text("run/systemd/network/80-k8r.network")


def test_a_host_key_cut_off_by_a_power_cut_is_made_again(tmp_path: Path) -> None:
    node = Node(tmp_path, "new")
    node.write("etc/ssh/ssh_host_ed25519_key", "")
    node.identity.apply()
    assert node.text("etc/ssh/ssh_host_ed25519_key") == "generated"


def test_a_fresh_slot_that_was_not_given_its_identity_overwrites_nothing(tmp_path: Path) -> None:
    """apply() failed in part, so what the system has is the image's, not the node's."""
    old = Node(tmp_path, "old")
    old.write("etc/machine-id", MACHINE_ID + "\n")
    old.write("etc/ssh/ssh_host_ed25519_key", "precious", 0o600)
    old.identity.capture()
    assert (old.root / STAMP).exists() and old.identity.captured()
    kept = {path: path.read_bytes() for path in old.state.rglob("*") if path.is_file()}
    fresh = Node(tmp_path, "fresh")
    fresh.write("etc/machine-id", "f" * 32 + "\n")
    fresh.identity.capture()
    assert fresh.identity.captured(), "there is nothing to capture"
    assert {path: path.read_bytes() for path in old.state.rglob("*") if path.is_file()} == kept


@pytest.mark.parametrize("emptied", [False, True])
@pytest.mark.parametrize("gone", ["etc/machine-id", "etc/passwd", "etc/shadow", "etc/group"])
def test_a_system_that_lost_its_identity_does_not_take_the_kept_one_along(old: Node, gone: str, emptied: bool) -> None:
    old.identity.capture()
    kept = {path: path.read_bytes() for path in old.state.rglob("*") if path.is_file()}
    if emptied:
        old.write(gone, "")
    else:
        (old.root / gone).unlink()
    with pytest.raises(StateError, match=gone) as failure:
        old.identity.capture()
    assert failure.value.hint.startswith(f"restore /{gone}")
    assert {path: path.read_bytes() for path in old.state.rglob("*") if path.is_file()} == kept


def aside(node: Node, name: str) -> Callable[[], None]:
    """Take away what is there, as an unmount does, and leave the empty directory; returns its undoing."""
    here, there = node.root / name, node.root / (name.replace("/", "_") + ".aside")
    here.rename(there)
    here.mkdir()

    def back() -> None:
        here.rmdir()
        there.rename(here)
    return back


@pytest.mark.parametrize("missing", ["home", "home/alice", "etc/ssh"])
def test_what_is_not_mounted_is_not_forgotten(old: Node, missing: str) -> None:
    """At a shutdown the capture comes almost last, and a nofail or NFS mount is gone by then."""
    old.identity.capture()
    kept = {path: path.read_bytes() for path in old.state.rglob("*") if path.is_file()}
    back = aside(old, missing)
    old.write("etc/hostname", "renamed\n")
    assert not old.identity.captured()
    old.identity.capture()
    assert old.identity.captured(), "a reinstall is not held up"
    kept[old.state / "identity/hostname"] = b"renamed\n"
    assert {path: path.read_bytes() for path in old.state.rglob("*") if path.is_file()} == kept
    back()
    old.write("home/alice/.ssh/authorized_keys", "ssh-rsa newer\n")
    old.identity.capture()
    assert (old.state / "identity/authorized_keys/alice").read_text() == "ssh-rsa newer\n"


@pytest.mark.parametrize("missing", ["etc/netplan", "home/alice/.ssh", "etc/hostname"])
def test_what_is_gone_as_a_whole_is_not_forgotten(old: Node, missing: str) -> None:
    old.identity.capture()
    kept = {path: path.read_bytes() for path in old.state.rglob("*") if path.is_file()}
    (old.root / missing).rename(old.root / "aside")
    old.identity.capture()
    assert old.identity.captured()
    assert {path: path.read_bytes() for path in old.state.rglob("*") if path.is_file()} == kept


def test_what_the_owner_takes_out_is_forgotten(old: Node) -> None:
    old.write("etc/ssh/ssh_host_rsa_key", "retired", 0o600)
    old.identity.capture()
    keys = old.state / "identity/authorized_keys"
    (old.root / "home/alice/.ssh/authorized_keys").write_text("")
    (old.root / "root/.ssh/authorized_keys").unlink()
    (old.root / "etc/ssh/ssh_host_rsa_key").unlink()
    (old.root / "etc/netplan/60-own.yaml").unlink()
    assert not old.identity.captured()
    old.identity.capture()
    assert (keys / "alice").read_bytes() == b"" and not (keys / "root").exists() and old.identity.captured()
    assert not (old.state / "identity/ssh/ssh_host_rsa_key").exists()
    assert (old.state / "identity/ssh/ssh_host_ed25519_key").exists()
    assert not (old.state / "identity/network/netplan/60-own.yaml").exists()
    (old.root / "home/alice/.ssh/authorized_keys").unlink()
    (old.root / "home/alice/.ssh/authorized_keys").symlink_to("/elsewhere")
    old.identity.capture()
    assert not (keys / "alice").exists()


def test_keys_of_a_user_who_is_gone_are_forgotten(old: Node) -> None:
    old.identity.capture()
    old.write("etc/passwd", "root:x:0:0:root:/root:/bin/bash\n")
    aside(old, "home")
    old.identity.capture()
    assert not (old.state / "identity/authorized_keys/alice").exists()


def test_what_a_later_agent_keeps_is_not_forgotten(old: Node) -> None:
    old.identity.capture()
    for name in ("identity/network/future/x", "identity/future"):
        old.files.write(name, b"x")
    old.identity.capture()
    assert old.files.read("identity/network/future/x") == old.files.read("identity/future") == b"x"
