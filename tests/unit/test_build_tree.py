"""What a golden image's tree holds, and what it must not hold."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from k8r_agent.build import golden, tree
from k8r_agent.build.options import GoldenOptions

EPOCH = 1_700_000_000
LEFT_BEHIND = (
    "etc/ssh/ssh_host_ed25519_key", "etc/ssh/ssh_host_ed25519_key.pub", "etc/apt/sources.list",
    "etc/apt/sources.list.d/0000host.sources", "etc/.resolv.conf.systemd-resolved.bak", "etc/hostname", "etc/shadow-",
    "var/lib/dbus/machine-id", "var/lib/systemd/random-seed", "var/cache/ldconfig/aux-cache", "var/log/dpkg.log",
    "var/log/apt/history.log", "var/lib/apt/lists/mirror_Packages", "var/cache/apt/pkgcache.bin", "tmp/x", "run/y",
    "usr/share/man/man1/ls.1.gz", "usr/share/doc/bash/changelog.gz", "usr/sbin/policy-rc.d", "dev/null",
    "boot/System.map-6", "etc/apt/apt.conf.d/99mmdebstrap",
)
KEPT = ("usr/share/doc/bash/copyright", "etc/ssh/sshd_config", "boot/vmlinuz-6", "boot/initrd.img-6",
        "var/lib/initramfs-tools/6", "var/lib/dpkg/status")


def options(**changes: object) -> GoldenOptions:
    return GoldenOptions(**{"release": 7, "version": "2026.1", "epoch": EPOCH, **changes})  # type: ignore[arg-type]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in (*LEFT_BEHIND, *KEPT):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "etc/shadow").write_text("root:$y$secret:20000:0:99999:7:::\nsshd:!:20001::::::\nnobody:*::0:::::\n")
    (tmp_path / "usr/lib/systemd").mkdir(parents=True)
    (tmp_path / "usr/lib/os-release").write_text('PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nIMAGE_ID=old\n')
    (tmp_path / "root").mkdir()
    return tmp_path


def files(root: Path) -> set[str]:
    return {str(Path(directory, name).relative_to(root)) for directory, _, names in os.walk(root) for name in names}


def test_what_a_build_leaves_behind_is_dropped(root: Path) -> None:
    tree.clean(root, options())
    assert not files(root) & set(LEFT_BEHIND)
    assert set(KEPT) <= files(root)
    assert (root / "var/log/apt").is_dir(), "directories of packages stay"


def test_an_image_has_no_identity_and_nobody_s_password(root: Path) -> None:
    tree.clean(root, options())
    assert (root / "etc/machine-id").read_text() == "uninitialized\n"
    assert not [line for line in (root / "etc/fstab").read_text().splitlines() if not line.startswith("#")]
    day = EPOCH // 86400
    assert (root / "etc/shadow").read_text() == f"root:*:{day}:0:99999:7:::\nsshd:!:{day}::::::\nnobody:*::0:::::\n"


def test_nothing_is_newer_than_the_build_s_point_in_time(root: Path) -> None:
    os.utime(root / "boot/vmlinuz-6", (5, 5))
    tree.clean(root, options())
    times = {name: os.lstat(root / name).st_mtime for name in files(root)}
    assert max(times.values()) == EPOCH
    assert times["boot/vmlinuz-6"] == 5


def test_a_link_out_of_the_tree_is_not_followed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "file"
    outside.write_text("mine")
    before = outside.stat().st_mtime
    (root / "tmp/link").symlink_to(outside.parent)
    (root / "etc/link").symlink_to(outside)
    (root / "etc/resolv.conf").symlink_to(outside)
    tree.clean(root, options())
    assert outside.read_text() == "mine" and outside.stat().st_mtime == before


def test_a_node_s_image_knows_its_release_and_whom_to_believe(root: Path) -> None:
    tree.configure(root, options(signers="lab ssh-ed25519 A\n", authorized_keys="ssh-ed25519 B\n"))
    assert (root / "usr/lib/k8r/release").read_text() == "7\n"
    assert (root / "usr/lib/k8r/allowed_signers").read_text() == "lab ssh-ed25519 A\n"
    keys = root / "root/.ssh/authorized_keys"
    assert keys.read_text() == "ssh-ed25519 B\n" and keys.stat().st_mode & 0o777 == 0o600
    assert (root / "var/lib/k8r").stat().st_mode & 0o777 == 0o700
    assert 'IMAGE_VERSION="2026.1"' in (root / "usr/lib/os-release").read_text()
    assert "old" not in (root / "usr/lib/os-release").read_text()
    assert tree.os_name(root) == "Debian GNU/Linux 12 (bookworm)"


def test_without_keys_there_is_no_file_of_keys(root: Path) -> None:
    tree.configure(root, options())
    assert not (root / "usr/lib/k8r/allowed_signers").exists() and not (root / "root/.ssh").exists()


def test_masked_units_are_not_wanted_either(root: Path) -> None:
    wanted = root / "etc/systemd/system/timers.target.wants/apt-daily.timer"
    wanted.parent.mkdir(parents=True)
    wanted.symlink_to("/lib/systemd/system/apt-daily.timer")
    tree.configure(root, options())
    assert not wanted.is_symlink()
    assert os.readlink(root / "etc/systemd/system/apt-daily.timer") == "/dev/null"


def test_sources_of_nodes_are_those_that_were_given(root: Path, tmp_path: Path) -> None:
    given = root / "given.sources"
    given.write_text("Types: deb\n")
    tree.clean(root, options())
    assert not list((root / "etc/apt/sources.list.d").iterdir())
    tree.clean(root, options(node_sources=given))
    assert (root / "etc/apt/sources.list.d/k8r.sources").read_text() == "Types: deb\n"


def test_package_list() -> None:
    status = ("Package: b\nStatus: install ok installed\nArchitecture: all\nVersion: 1:2-3\nDescription: x\n a\n\n"
              "Package: a\nStatus: deinstall ok config-files\nArchitecture: all\nVersion: 1\n\n"
              "Package: a2\nStatus: install ok installed\nArchitecture: amd64\nVersion: 9\n")
    assert golden.package_list(status) == "a2 9 amd64\nb 1:2-3 all\n"
