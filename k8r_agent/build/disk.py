"""A flashable disk: the boot partition with loader, decision and one slot's assets, and the image slot. Sparse."""

from __future__ import annotations

import calendar
import hashlib
import lzma
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import zstandard

from k8r_agent.boot import loaderfiles
from k8r_agent.build import assets, bundle, fat, loaders, signing
from k8r_agent.build.options import ESP_SIZE, MIB, DiskOptions
from k8r_agent.build.progress import Progress
from k8r_agent.build.seeds import derive
from k8r_agent.effects.commands import FullCommands
from k8r_agent.errors import BuildError, SignatureError, UsageError
from k8r_agent.image import manifest as manifest_file
from k8r_agent.model.boot import BootAssets
from k8r_agent.model.bundle import Artifact, Manifest
from k8r_agent.model.layout import BOOT, IMAGE, LABELS
from k8r_agent.model.units import format_size

START = MIB  # of the first partition
_END = MIB  # room for the backup table
_TYPES = {"gpt": ("uefi", "linux"), "dos": ("ef", "83")}
_PIECE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Bytes."""

    boot_start: int
    boot_size: int
    image_start: int
    image_size: int
    size: int


def layout(image: int, options: DiskOptions) -> Layout:
    """Raises UsageError when a wanted size is too small."""
    slot = options.image_size or image
    if slot < image or (slot % MIB and options.image_size):
        raise UsageError(f"--image-size {format_size(slot)}", why=f"the image has {format_size(image)}",
                         hint="a whole number of MiB, at least that large")
    slot = -(-slot // MIB) * MIB
    least = START + ESP_SIZE + slot + _END
    if options.size and (options.size < least or options.size % 512):
        raise UsageError(f"--size {format_size(options.size)}", why=f"the partitions need {format_size(least)}")
    return Layout(boot_start=START, boot_size=ESP_SIZE, image_start=START + ESP_SIZE, image_size=slot,
                  size=options.size or least)


def table_script(wanted: Layout, options: DiskOptions, seed: object) -> str:
    """For sfdisk. The numbers are the same each time; a node gives itself fresh ones at first boot."""
    disk_id = derive("disk", seed)
    gpt = options.table == "gpt"
    lines = [f"label: {options.table}", f"label-id: {disk_id if gpt else '0x' + disk_id.hex[:8]}", "unit: sectors"]
    parts = ((BOOT, wanted.boot_start, wanted.boot_size), (IMAGE, wanted.image_start, wanted.image_size))
    for number, start, size in parts:
        line = f"start={start // 512}, size={size // 512}, type={_TYPES[options.table][number - 1]}"
        if gpt:
            line += f', uuid={derive("part", seed, number)}, name="{LABELS[number]}"'
        elif number == BOOT:
            line += ", bootable"
        lines.append(line)
    return "\n".join(lines) + "\n"


def plan(options: DiskOptions) -> Layout:
    """What make() would do, everything checked that can be without reading the image."""
    read_config(options)
    return layout(_artifact(bundle.read_manifest(options.bundle), "image").unpacked_size, options)


def make(options: DiskOptions, *, commands: FullCommands, progress: Progress) -> Layout:
    """Raises UsageError, BuildError, BundleError, SignatureError. `options.out` appears whole or not at all."""
    manifest = bundle.read_manifest(options.bundle)
    if options.signers is not None:
        _check_signature(options, commands)
    image = _artifact(manifest, "image")
    wanted = layout(image.unpacked_size, options)
    config = read_config(options)
    partial = options.out.with_name(f".{options.out.name}.part")
    stage = options.out.with_name(f".{options.out.name}.stage")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    partial.unlink(missing_ok=True)
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir()
    try:
        with partial.open("wb") as file:
            file.truncate(wanted.size)
        seed = f"{options.table}:{image.unpacked_sha256}"
        commands.run(["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", str(partial)],
                     stdin=table_script(wanted, options, seed).encode())
        progress.step(f"writing {image.file} to the image partition")
        unpack_image(options.bundle, image, partial, wanted.image_start, progress)
        progress.step("making the boot partition")
        boot = _boot_assets(options.bundle, _artifact(manifest, "boot"))
        files = _boot_files(options.loader, boot, partial, wanted, stage, commands)
        epoch = _created(manifest)
        fat.make(partial, offset=wanted.boot_start, size=wanted.boot_size, files={**files, **config}, seed=seed,
                 epoch=epoch, stage=stage / "files", commands=commands)
        partial.replace(options.out)
    finally:
        partial.unlink(missing_ok=True)
        shutil.rmtree(stage, ignore_errors=True)
    return wanted


def _check_signature(options: DiskOptions, commands: FullCommands) -> None:
    assert options.signers is not None
    path = options.bundle / manifest_file.NAME
    signature = options.bundle / manifest_file.SIGNATURE
    if not signature.is_file():
        raise SignatureError(f"{options.bundle} is not signed", why=f"{signature.name} is missing")
    signing.verify(path, signature, options.signers, commands)


def _artifact(manifest: Manifest, kind: str) -> Artifact:
    found = manifest.artifact(kind)
    if found is None:
        raise BuildError(f"the bundle has no artifact of kind {kind!r}")
    return found


def _created(manifest: Manifest) -> int:
    return calendar.timegm(time.strptime(manifest.created, "%Y-%m-%dT%H:%M:%SZ"))


def _unpacked(path: Path, compression: str) -> Iterator[bytes]:
    """Pieces of the content. The frames lie one behind the other, so it reads as one stream."""
    with path.open("rb") as file:
        if compression == "zstd":
            with zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True) as reader:
                while piece := reader.read(_PIECE):
                    yield piece
        elif compression == "xz":
            with lzma.open(file) as reader:
                while piece := reader.read(_PIECE):
                    yield piece
        else:
            while piece := file.read(_PIECE):
                yield piece


def unpack_image(directory: Path, image: Artifact, disk: Path, offset: int, progress: Progress) -> None:
    """Zeros become holes. Raises BuildError when the content is not what the manifest says."""
    path = bundle.check_file(directory, image)
    digest = hashlib.sha256()
    at = 0
    fd = os.open(disk, os.O_RDWR)
    try:
        for piece in _unpacked(path, image.compression):
            digest.update(piece)
            if piece.count(0) != len(piece):
                os.pwrite(fd, piece, offset + at)
            at += len(piece)
            progress.bytes(at, image.unpacked_size)
    except (zstandard.ZstdError, lzma.LZMAError, EOFError) as error:
        raise BuildError(f"{path} cannot be unpacked", why=str(error)) from None
    finally:
        os.close(fd)
    if at != image.unpacked_size or digest.hexdigest() != image.unpacked_sha256:
        raise BuildError(f"{path} does not unpack to what the manifest says")


def _boot_assets(directory: Path, artifact: Artifact) -> BootAssets:
    data = b"".join(_unpacked(bundle.check_file(directory, artifact), artifact.compression))
    if hashlib.sha256(data).hexdigest() != artifact.unpacked_sha256:
        raise BuildError(f"{artifact.file} does not unpack to what the manifest says")
    return assets.from_tar(data)


def _boot_files(loader: str, boot: BootAssets, disk: Path, wanted: Layout, stage: Path,
                commands: FullCommands) -> dict[str, bytes]:
    efi, *guard = (loaders.take_from(disk, wanted.image_start, program, stage, commands)
                   for program in loaders.programs(loader))
    return loaderfiles.initial_files(loader, boot, efi=efi, guard=guard[0] if guard else None)


def read_config(options: DiskOptions) -> dict[str, bytes]:
    """k8r.toml for the boot partition. Raises UsageError when it cannot be read."""
    if options.config is None:
        return {}
    try:
        return {"k8r.toml": options.config.read_bytes()}
    except OSError as error:
        raise UsageError(f"--config {options.config}", why=error.strerror or str(error)) from None
