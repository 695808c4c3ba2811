"""A bundle directory: image, index and boot assets packed, described by one manifest, signed."""

from __future__ import annotations

import hashlib
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from k8r_agent.build import assets as boot_assets
from k8r_agent.build import chunks, ext4, signing
from k8r_agent.build.chunks import SUFFIX, Packed
from k8r_agent.build.options import ARCHITECTURE, BundleOptions
from k8r_agent.build.progress import Progress
from k8r_agent.effects.commands import FullCommands
from k8r_agent.errors import BuildError
from k8r_agent.image import index as index_file
from k8r_agent.image import manifest as manifest_file
from k8r_agent.model.boot import BootAssets
from k8r_agent.model.bundle import Artifact, Manifest


@dataclass(frozen=True, kw_only=True)
class Made:
    directory: Path
    manifest: Manifest
    signed: bool
    used: int  # bytes of the image that are used


def make(directory: Path, *, image: Path, boot: BootAssets, options: BundleOptions, key: Path | None,
         commands: FullCommands, progress: Progress) -> Made:
    """Raises BuildError, UsageError (key), CommandFailed. An old bundle in `directory` is replaced."""
    if image.stat().st_size % ext4.BLOCK:
        raise BuildError(f"{image} is not a whole number of {ext4.BLOCK}-byte blocks")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    used = ext4.used_blocks(ext4.dump(image, commands))
    progress.step(f"packing {image.name} ({options.compression})")
    image_name = f"image.img{SUFFIX[options.compression]}"
    packed, index = chunks.pack_image(image, directory / image_name, used=used, compression=options.compression,
                                      level=options.level, progress=progress)
    raw_index = index_file.write(index)
    index_packed = chunks.pack_bytes(raw_index, directory / index_file.NAME, compression="none", level=0)
    boot_name = f"boot.tar{SUFFIX[options.compression]}"
    boot_packed = chunks.pack_bytes(boot_assets.to_tar(boot, options.created), directory / boot_name,
                                    compression=options.compression, level=options.level)
    manifest = Manifest(
        compatible=options.compatible, architecture=ARCHITECTURE, release=options.release, version=options.version,
        os=options.os, kubernetes=options.kubernetes,
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(options.created)),
        artifacts=(_artifact("image", image_name, options.compression, packed),
                   _artifact("index", index_file.NAME, "none", index_packed),
                   _artifact("boot", boot_name, options.compression, boot_packed)))
    path = directory / manifest_file.NAME
    path.write_bytes(manifest_file.write(manifest))
    if key is not None:
        signing.sign(path, key, commands)
    return Made(directory=directory, manifest=manifest, signed=key is not None, used=index_file.used_bytes(index))


def _artifact(kind: str, file: str, compression: str, packed: Packed) -> Artifact:
    return Artifact(kind=kind, file=file, size=packed.size, sha256=packed.sha256, compression=compression,
                    unpacked_size=packed.unpacked_size, unpacked_sha256=packed.unpacked_sha256)


def read_manifest(directory: Path) -> Manifest:
    """Raises BuildError when there is none, BundleError when it is not well-formed."""
    path = directory / manifest_file.NAME
    if not path.is_file():
        raise BuildError(f"{directory} is not a bundle", why=f"it has no {manifest_file.NAME}")
    return manifest_file.read(path.read_bytes(), name=str(path))


def check_file(directory: Path, artifact: Artifact) -> Path:
    """The artifact's file, its size and hash compared with the manifest. Raises BuildError."""
    path = directory / artifact.file
    if not path.is_file() or path.stat().st_size != artifact.size:
        found = f"{path.stat().st_size} bytes" if path.is_file() else "missing"
        raise BuildError(f"{path}: {found}", why=f"the manifest says {artifact.size} bytes")
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != artifact.sha256:
        raise BuildError(f"{path} does not hash to what the manifest says")
    return path
