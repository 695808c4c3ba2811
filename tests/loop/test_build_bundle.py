"""File system, bundle and disk from a small tree: what is made is what a node expects, and the same each time."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from k8r_agent.boot.loaderfiles import initial_files
from k8r_agent.build import assets, bundle, ext4, fat, loaders, signing
from k8r_agent.build.__main__ import main
from k8r_agent.build.options import BundleOptions
from k8r_agent.effects.commands import commands
from k8r_agent.image.bundle import Bundles
from tests.fakes.assets import in_memory

EPOCH = 1_790_000_000
SIZE = 96 << 20
BOOT = in_memory(kernel=b"kernel" * 1000, initrd=b"initrd" * 1000, cmdline="console=ttyS0", release="3")


class Quiet:
    def step(self, text: str) -> None: ...

    def note(self, text: str) -> None: ...

    def bytes(self, done: int, total: int) -> None: ...


def make_tree(root: Path) -> Path:
    """With everything that a file system can trip over; in an order that the next one does not have."""
    contents: Mapping[str, bytes] = {"etc/hosts": b"x", "usr/bin/big": b"y" * 3_000_000,
                                     "usr/share/many": b"z" * 4097, "a b/ü": b"", "zero": bytes(1 << 20)}
    names = list(contents) if len(str(root)) % 2 else list(contents)[::-1]
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(contents[name])
    (root / "link").symlink_to("/usr/bin/big")
    (root / "usr/bin/hard").hardlink_to(root / "usr/bin/big")
    for program in ("systemd-boot", "guard", "grub"):
        path = root / loaders.place(program)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(program.encode() * 100)
    for directory, directories, files in os.walk(root):
        for name in (*files, *directories):
            os.utime(os.path.join(directory, name), (EPOCH, EPOCH), follow_symlinks=False)
    os.utime(root, (EPOCH, EPOCH))
    return root


def make_image(where: Path, release: int = 3) -> Path:
    where.mkdir()
    image = where / "image.img"
    ext4.make(make_tree(where / "tree"), image, size=SIZE, release=release, epoch=EPOCH, log=where / "log",
              commands=commands())
    return image


def output(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """out/bundle of release 3, signed with out/key."""
    out = tmp_path_factory.mktemp("made") / "out"
    image = make_image(out)
    signing.keygen(out / "key", principal="lab", commands=commands())
    options = BundleOptions(release=3, version="3.0", created=EPOCH, os="test")
    bundle.make(out / "bundle", image=image, boot=BOOT, options=options, key=out / "key", commands=commands(),
                progress=Quiet())
    return out


def test_the_file_system_is_the_same_each_time(tmp_path: Path) -> None:
    one, two = make_image(tmp_path / "one"), make_image(tmp_path / "second")
    assert one.read_bytes() == two.read_bytes()


def test_two_releases_of_the_same_tree_differ_in_their_superblocks_only(tmp_path: Path) -> None:
    one, two = (make_image(tmp_path / str(release), release).read_bytes() for release in (1, 2))
    differ = [n for n in range(SIZE // 4096) if one[n * 4096:n * 4096 + 4096] != two[n * 4096:n * 4096 + 4096]]
    assert differ[0] == 0 and len(differ) <= 2, "the superblock and its backups"


def test_the_file_system_is_as_nodes_need_it(made: Path) -> None:
    image = made / "image.img"
    said = output("dumpe2fs", "-h", str(image))
    features = next(line for line in said.splitlines() if line.startswith("Filesystem features")).split(":")[1].split()
    assert {"metadata_csum", "metadata_csum_seed", "has_journal", "extent"} <= set(features)
    assert "orphan_file" not in features
    assert "Filesystem volume name:   image" in said and "Total journal size:       8M" in said
    output("e2fsck", "-f", "-n", str(image))
    stat = output("debugfs", "-R", "stat /usr/bin/big", str(image))
    assert "Links: 2" in stat and stat.count(f"0x{EPOCH:08x}") == 4
    assert image.stat().st_blocks * 512 < SIZE // 2, "zeros are holes"


def test_the_bundle_opens_as_on_a_node(made: Path) -> None:
    with Bundles(commands(), signers=(made / "key.allowed_signers",)).open(str(made / "bundle")) as opened:
        assert opened.signer == "lab"
        assert opened.boot_assets() == BOOT
        with opened.image() as source:
            assert b"".join(source.chunks()) == (made / "image.img").read_bytes()
            assert source.index is not None
            used = sum(count for _, count in source.index.used)
    free = int(next(line for line in output("dumpe2fs", "-h", str(made / "image.img")).splitlines()
                    if line.startswith("Free blocks")).split(":")[1])
    assert used == SIZE // 4096 - free


def test_a_bundle_of_files_that_exist_is_the_same_bundle(made: Path, tmp_path: Path,
                                                         capsys: pytest.CaptureFixture[str]) -> None:
    assets.write_directory(BOOT, tmp_path / "boot")
    code = main(["bundle", "--release=3", "--version=3.0", f"--image={made / 'image.img'}", f"--boot={tmp_path}/boot",
                 f"--epoch={EPOCH}", "--os=test", f"--out={tmp_path / 'bundle'}", "--json", "--quiet"])
    assert code == 0 and json.loads(capsys.readouterr().out)["signed"] is False
    for path in (tmp_path / "bundle").iterdir():
        assert path.read_bytes() == (made / "bundle" / path.name).read_bytes(), path.name
    assert main(["sign", str(tmp_path / "bundle"), f"--sign-key={made / 'key'}", "--quiet"]) == 0
    assert (tmp_path / "bundle/manifest.toml.sig").read_bytes() == (made / "bundle/manifest.toml.sig").read_bytes()


def test_a_damaged_bundle_is_neither_signed_nor_flashed(made: Path, tmp_path: Path,
                                                        capsys: pytest.CaptureFixture[str]) -> None:
    output("cp", "-r", str(made / "bundle"), str(tmp_path))
    path = tmp_path / "bundle/image.img.zst"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert main(["sign", str(tmp_path / "bundle"), f"--sign-key={made / 'key'}"]) == 1
    assert "does not hash" in capsys.readouterr().err
    assert main(["disk", f"--bundle={tmp_path / 'bundle'}", f"--out={tmp_path / 'disk.img'}"]) == 1
    assert not [name for name in os.listdir(tmp_path) if "disk.img" in name]


@pytest.mark.parametrize("table", ["gpt", "dos"])
@pytest.mark.parametrize("loader", ["systemd-boot", "grub"])
def test_a_disk_holds_what_the_firmware_and_the_node_look_for(made: Path, tmp_path: Path, loader: str,
                                                              table: str) -> None:
    disk, again = tmp_path / "disk.img", tmp_path / "again.img"
    config = tmp_path / "node.toml"
    config.write_text('[node]\nhostname = "n1"\n')
    for out in (disk, again):
        assert main(["disk", f"--bundle={made / 'bundle'}", f"--loader={loader}", f"--table={table}", "--quiet",
                     f"--signers={made / 'key.allowed_signers'}", f"--config={config}", f"--out={out}"]) == 0
    assert disk.read_bytes() == again.read_bytes()
    parts = json.loads(output("sfdisk", "--json", str(disk)))["partitiontable"]
    assert parts["label"] == table and [p["start"] * 512 for p in parts["partitions"]] == [1 << 20, 513 << 20]
    with disk.open("rb") as file:
        file.seek(513 << 20)
        assert file.read(SIZE) == (made / "image.img").read_bytes()
    fat_image = tmp_path / "esp.img"
    output("dd", f"if={disk}", f"of={fat_image}", "bs=1M", "skip=1", "count=512", "conv=sparse", "status=none")
    output("fsck.vfat", "-n", str(fat_image))
    wanted = initial_files(loader, BOOT, efi=loader.encode() * 100,
                           guard=b"guard" * 100 if loader == "systemd-boot" else None, gpt=table == "gpt")
    output("mcopy", "-s", "-i", str(fat_image), "::", str(tmp_path / "esp"))
    found = {str(path.relative_to(tmp_path / "esp")): path.read_bytes()
             for path in (tmp_path / "esp").rglob("*") if path.is_file()}
    kept = {f"k8r/bundle/{name}": (made / "bundle" / name).read_bytes()
            for name in ("manifest.toml", "manifest.toml.sig", "image.index.json")}
    assert found == {**wanted, **kept, "k8r.toml": config.read_bytes()}


def test_a_loader_that_the_image_does_not_carry_is_said(made: Path, tmp_path: Path) -> None:
    stage = tmp_path / "stage"
    stage.mkdir()
    with pytest.raises(Exception, match="has no shim"):
        loaders.take_from(made / "image.img", 0, "shim", stage, commands())


def test_loader_programs_are_the_same_each_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        loaders.put_into(tmp_path / name / "tree", ("grub",), work=tmp_path / name, commands=commands())
    one, two = ((tmp_path / name / "tree" / loaders.place("grub")).read_bytes() for name in ("one", "two"))
    assert one == two and one[:2] == b"MZ"


def test_a_long_file_name_and_a_full_directory(tmp_path: Path) -> None:
    disk = tmp_path / "d"
    with disk.open("wb") as file:
        file.truncate(400 << 20)
    files = {f"dir/file-with-a-long-name-{n:03}.conf": str(n).encode() for n in range(150)}
    fat.make(disk, offset=1 << 20, size=300 << 20, files=files, empty=(), seed=1, epoch=EPOCH, stage=tmp_path / "s",
             commands=commands())
    listed = output("mdir", "-b", "-i", f"{disk}@@1M", "::dir").split()
    assert len(listed) == 150
