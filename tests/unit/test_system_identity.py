"""A node stays itself through a reinstall: three file trees (old working slot, state, fresh system) in a directory."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from k8r_agent.config.settings import AccessSettings, NetworkSettings, NodeSettings, Settings
from k8r_agent.effects.identity import STAMP, NodeIdentity
from k8r_agent.errors import StateError
from tests.fakes.nodetree import KEY, MACHINE_ID, Node, lived_in


@pytest.fixture
def old(tmp_path: Path) -> Node:
    return lived_in(tmp_path)


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


@pytest.mark.parametrize("broken", ["", "netplan", "udevadm"])
def test_who_read_the_network_too_early_is_told_when_it_is_put_back(old: Node, tmp_path: Path, broken: str) -> None:
    """The image slot would stay without an address otherwise: nobody could reach the refuge."""
    old.write("etc/systemd/network/10-lan.link", "[Link]\nName=lan0\n")
    old.identity.capture()
    new = Node(tmp_path, "new")
    new.facts("working")
    new.write("usr/sbin/netplan", "")
    new.keygen.broken = broken
    new.identity.apply()
    words = [" ".join(call[:2]) for call in new.keygen.calls if call[0] != "ssh-keygen"]
    assert words == (["netplan generate"] if broken == "netplan" else
                     ["netplan generate", "udevadm control"] + ["udevadm trigger"] * (not broken))
    new.keygen.calls.clear()
    new.identity.apply()
    assert new.keygen.calls == [], "they are in place, and the stamp says so"


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
