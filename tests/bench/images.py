"""Images for measuring: an ext4 of real files of this machine, packed as the builder packs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from k8r_agent.build import chunks, ext4
from k8r_agent.effects.commands import commands
from k8r_agent.image import index as indexes
from k8r_agent.image import manifest as manifests
from k8r_agent.model.bundle import Artifact, Manifest
from tests.fakes.bundles import artifact, boot_tar, make_assets, pack

MIB = 1 << 20
FILL = 0.55  # of the image, as golden images are


class Quiet:
    def step(self, text: str) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def bytes(self, done: int, total: int) -> None:
        pass


def generate(bundle: Path, *, mib: int, compression: str = "zstd", level: int = 9, initrd: int = 8 * MIB) -> Path:
    """A bundle directory, not signed."""
    bundle.mkdir(parents=True)
    tree, image = bundle / "tree", bundle / "image"
    _copy_files(tree, int(mib * MIB * FILL))
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-b", "4096", "-L", "image", "-J", "size=8", "-d", str(tree), "-O",
                    "metadata_csum,metadata_csum_seed,^orphan_file", "-E", "lazy_itable_init=0,lazy_journal_init=0",
                    str(image), f"{mib}M"], check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(tree)
    used = ext4.used_blocks(ext4.dump(image, commands()))
    name = f"image.img{chunks.SUFFIX[compression]}"
    packed, index = chunks.pack_image(image, bundle / name, used=used, compression=compression, level=level,
                                      progress=Quiet())
    image.unlink()
    raw = indexes.write(index)
    (bundle / indexes.NAME).write_bytes(raw)
    tar = boot_tar(make_assets(1, size=4 * MIB, initrd=initrd))
    small = "xz" if compression == "xz" else "zstd"
    boot = f"boot.tar{chunks.SUFFIX[small]}"
    (bundle / boot).write_bytes(pack(tar, small))
    picture = Artifact(kind="image", file=name, compression=compression, size=packed.size,
                                 sha256=packed.sha256, unpacked_size=packed.unpacked_size,
                                 unpacked_sha256=packed.unpacked_sha256)
    manifest = Manifest(compatible=("generic-x86_64", "generic-x86_64-bios"),
                        architecture="amd64", release=1, version="bench", os="bench",
                        kubernetes="", created="2026-11-20T11:00:00Z", artifacts=(
                            picture, artifact("index", indexes.NAME, raw, raw, "none"),
                            artifact("boot", boot, pack(tar, small), tar, small)))
    (bundle / manifests.NAME).write_bytes(manifests.write(manifest))
    return bundle


def _copy_files(tree: Path, wanted: int) -> None:
    """Files of /usr until there is enough, several times over if need be."""
    copied = turn = 0
    while copied < wanted:
        turn += 1
        for number, path in enumerate(_files(Path("/usr"))):
            size = path.stat().st_size
            if not 0 < size < 64 * MIB:
                continue
            target = tree / f"{turn}-{number // 1000}" / f"{number}-{path.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            copied += size
            if copied >= wanted:
                return


def _files(top: Path) -> Iterator[Path]:
    for directory, directories, names in os.walk(top):
        directories.sort()
        for name in sorted(names):
            path = Path(directory, name)
            if path.is_file() and not path.is_symlink() and os.access(path, os.R_OK):
                yield path
