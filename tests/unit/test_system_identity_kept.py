"""What is kept of a node is forgotten when its owner took it out, and for no other reason."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from k8r_agent.effects.identity import BOOT_ID, STAMP, NodeIdentity
from k8r_agent.effects.statefiles import StateDirectory
from k8r_agent.errors import StateError
from tests.fakes.nodetree import MACHINE_ID, Node, lived_in


@pytest.fixture
def old(tmp_path: Path) -> Node:
    return lived_in(tmp_path)


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
