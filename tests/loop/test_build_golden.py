"""A whole golden image, made twice from packages: the same bytes, and none of the machine it was made on."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import zstandard

from k8r_agent.build import hostapt
from k8r_agent.build.__main__ import main
from k8r_agent.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / "build/cache/apt"
pytestmark = [pytest.mark.slow, pytest.mark.root]
SAME = ("image.img", "boot/vmlinuz", "boot/initrd.img", "packages.txt", "bundle/image.img.zst",
        "bundle/image.index.json", "bundle/boot.tar.zst", "bundle/manifest.toml", "bundle/manifest.toml.sig")


def build(out: Path, cache: Path, *more: str) -> None:
    """Of the package and with the key beside `out`."""
    debs, key = sorted(out.parent.glob("*.deb")), out.parent / "key"
    code = main(["build", "--release=1", "--version=1", *(f"--deb={deb}" for deb in debs), "--level=1", "--quiet",
                 "--loader=systemd-boot", "--loader=grub", "--kernel=linux-image-cloud-amd64", f"--sign-key={key}",
                 f"--cache={cache}", f"--out={out}", *more])
    assert code == 0


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One build on the base system that the cache holds, one that shares nothing with it but downloaded packages."""
    top = tmp_path_factory.mktemp("golden")
    assert main(["keygen", str(top / "key"), "--quiet"]) == 0
    debs = sorted((ROOT / "build/debs").glob("k8r-agent_*.deb"))
    if not debs:
        pytest.skip("no package: make deb")
    shutil.copy(debs[-1], top)  # it may be made anew meanwhile
    (CACHE / "archives").mkdir(parents=True, exist_ok=True)
    (top / "cache").mkdir()
    (top / "cache/archives").symlink_to(CACHE / "archives")
    one, two = top / "one", top / "two"
    build(one, CACHE)
    build(two, top / "cache")
    if (one / "packages.txt").read_bytes() != (two / "packages.txt").read_bytes():  # the mirror moved on meanwhile
        build(one, CACHE, "--refresh")
    return one, two


@pytest.mark.parametrize("name", SAME)
def test_two_builds_are_the_same(twice: tuple[Path, Path], name: str) -> None:
    one, two = twice
    same = subprocess.run(["cmp", str(one / name), str(two / name)], capture_output=True, text=True)
    assert same.returncode == 0, same.stdout


def test_nothing_is_built_twice(twice: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    one, _ = twice
    before = (one / "image.img").stat().st_mtime_ns
    build(one, CACHE)
    assert (one / "image.img").stat().st_mtime_ns == before
    assert "nothing changed" in capsys.readouterr().out


def files_of(image: Path, where: Path) -> Path:
    where.mkdir()
    subprocess.run(["debugfs", "-R", f"rdump / {where}", str(image)], check=True, capture_output=True)
    return where


def test_the_image_names_neither_mirror_nor_machine(twice: tuple[Path, Path], tmp_path: Path) -> None:
    """Where it was made is nobody's business, and a mirror in it may not be reachable for a node."""
    root = files_of(twice[0] / "image.img", tmp_path / "root")
    try:
        sources = "".join(hostapt.host_sources("bookworm").values())
    except UsageError:
        sources = ""
    hosts = {urlsplit(url).hostname or "" for url in re.findall(r"\bhttps?://[^\s\]]+", sources)}
    private = {host for host in hosts if host and not host.endswith(("debian.org", "ubuntu.com"))}
    private.add(socket.gethostname())
    for path in [*(root / "etc").rglob("*"), *(root / "usr/lib/k8r").rglob("*"), *(root / "var").rglob("*")]:
        if path.is_file() and not path.is_symlink():
            data = path.read_bytes()
            for name in private:
                assert len(name) < 5 or name.encode() not in data, f"/{path.relative_to(root)} mentions {name}"
    assert not [p for p in (root / "etc/apt").rglob("*.sources")] and not (root / "etc/apt/sources.list").exists()


def test_the_image_is_nobody_in_particular(twice: tuple[Path, Path], tmp_path: Path) -> None:
    root = files_of(twice[0] / "image.img", tmp_path / "root")
    assert not list((root / "etc/ssh").glob("ssh_host_*"))
    assert (root / "etc/machine-id").read_text() == "uninitialized\n"
    assert not (root / "etc/hostname").exists() and not (root / "var/lib/dbus/machine-id").exists()
    passwords = [line.split(":")[1] for line in (root / "etc/shadow").read_text().splitlines()]
    assert set(passwords) <= {"*", "!", "!*"}
    wanted = (root / "etc/systemd/system").rglob("*.wants/*")
    assert {"k8r-identity.service", "k8r-runner.path", "ssh.service", "systemd-networkd.service"} <= {
        path.name for path in wanted}


def archive_files(data: bytes) -> dict[str, bytes]:
    """Of a cpio archive in the "newc" format (kernel: driver-api/early-userspace/buffer-format)."""
    files: dict[str, bytes] = {}
    at = 0
    while True:
        assert data[at:at + 6] == b"070701", at
        size, length = (int(data[at + field:at + field + 8], 16) for field in (54, 94))
        name = data[at + 110:at + 110 + length - 1].decode()
        if name == "TRAILER!!!":
            return files
        start = -(-(at + 110 + length) // 4) * 4
        files[name] = data[start:start + size]
        at = -(-(start + size) // 4) * 4


def test_the_initramfs_finds_the_disk_on_any_machine(twice: tuple[Path, Path]) -> None:
    packed = (twice[0] / "boot/initrd.img").read_bytes()
    files = archive_files(zstandard.ZstdDecompressor().decompressobj().decompress(packed))
    assert "scripts/k8r" in files
    built_in = next(data for name, data in files.items() if name.endswith("/modules.builtin"))
    listed = "\n".join(files) + "\n/" + built_in.decode()
    for module in ("virtio_blk", "nvme", "ext4", "overlay", "vfat", "nls_cp437", "nls_ascii", "efivarfs"):
        assert re.search(rf"/{module}\.ko", listed), module
