"""A flashable disk: the boot partition with loader, decision and one slot's assets, and the image slot. Sparse."""

from __future__ import annotations

import calendar
import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from k8r_agent.boot import assetfiles, loaderfiles
from k8r_agent.build import fat, loaders, nodeconfig
from k8r_agent.build.options import ESP_SIZE, MIB, DiskOptions
from k8r_agent.build.progress import Progress
from k8r_agent.build.seeds import derive
from k8r_agent.effects.commands import FullCommands
from k8r_agent.errors import BuildError, UsageError
from k8r_agent.image import index as indexes
from k8r_agent.image import manifest as manifests
from k8r_agent.image import signature
from k8r_agent.image.bundle import Bundles, OpenBundle
from k8r_agent.image.places import place
from k8r_agent.model.bundle import Artifact, Manifest
from k8r_agent.model.layout import BOOT, IMAGE, LABELS
from k8r_agent.model.slots import Slot
from k8r_agent.model.units import format_size
from k8r_agent.ports.bundle import ImageSource

START = MIB  # of the first partition
_END = MIB  # room for the backup table
_TYPES = {"gpt": ("uefi", "linux"), "dos": ("ef", "83")}
_PIECE = 64 << 10


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Bytes."""

    boot_start: int
    boot_size: int
    image_start: int
    image_size: int
    size: int


def layout(image: int, options: DiskOptions) -> Layout:
    """`image` is the unpacked size. Raises UsageError when a wanted size is too small."""
    slot = options.image_size or -(-image // MIB) * MIB
    if slot < image or slot % MIB:
        raise UsageError(f"--image-size {format_size(slot)}", why=f"the image has {format_size(image)}",
                         hint="a whole number of MiB, at least that large")
    least = START + ESP_SIZE + slot + _END
    if options.size and (options.size < least or options.size % 512):
        raise UsageError(f"--size {format_size(options.size)}", why=f"the partitions need {format_size(least)}",
                         hint="a whole number of 512-byte sectors, at least that large")
    return Layout(boot_start=START, boot_size=ESP_SIZE, image_start=START + ESP_SIZE, image_size=slot,
                  size=options.size or least)


def table_script(wanted: Layout, table: str, seed: object) -> str:
    """For sfdisk. The numbers are the same each time; a node gives itself fresh ones at first boot."""
    disk_id, gpt = derive("disk", seed), table == "gpt"
    lines = [f"label: {table}", f"label-id: {disk_id if gpt else '0x' + disk_id.hex[:8]}", "unit: sectors"]
    parts = ((BOOT, wanted.boot_start, wanted.boot_size), (IMAGE, wanted.image_start, wanted.image_size))
    for number, start, size in parts:
        line = f"start={start // 512}, size={size // 512}, type={_TYPES[table][number - 1]}"
        if gpt:
            line += f', uuid={derive("part", seed, number)}, name="{LABELS[number]}"'
        elif number == BOOT:
            line += ", bootable"
        lines.append(line)
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def opened(options: DiskOptions, commands: FullCommands, progress: Progress) -> Iterator[OpenBundle]:
    """The bundle, its signature checked when there is a file of signers. Raises K8rError."""
    if options.signers is not None:
        with Bundles(commands, signers=(options.signers,)).open(options.bundle) as bundle:
            progress.note(f"signed by {bundle.signer}")
            yield bundle
        return
    progress.note("the signature was not checked: no --signers")
    with contextlib.closing(place(options.bundle)) as found:
        raw = found.small(manifests.NAME, manifests.MAX_MANIFEST)
        if raw is None:
            raise BuildError(f"{options.bundle} is not a bundle", why=f"it has no {manifests.NAME}")
        signed = found.small(manifests.SIGNATURE, signature.MAX_SIGNATURE) or b""
        yield OpenBundle(options.bundle, found, manifests.read(raw), signer="", raw=(raw, signed))


def plan(options: DiskOptions, *, commands: FullCommands, progress: Progress) -> Layout:
    """What make() would do, everything checked that can be without reading the image."""
    nodeconfig.read(options.config)
    with opened(options, commands, progress) as bundle:
        return layout(_image(bundle.manifest).unpacked_size, options)


def make(options: DiskOptions, *, commands: FullCommands, progress: Progress) -> Layout:
    """Raises K8rError. `options.out` appears whole or not at all."""
    config = nodeconfig.read(options.config)
    partial, stage = (options.out.with_name(f".{options.out.name}.{end}") for end in ("part", "stage"))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    partial.unlink(missing_ok=True)
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir()
    try:
        with opened(options, commands, progress) as bundle:
            wanted = layout(_image(bundle.manifest).unpacked_size, options)
            _fill(partial, bundle, wanted, options, config, stage, commands, progress)
        partial.replace(options.out)
    finally:
        partial.unlink(missing_ok=True)
        shutil.rmtree(stage, ignore_errors=True)
    return wanted


def _fill(disk: Path, bundle: OpenBundle, wanted: Layout, options: DiskOptions, config: bytes, stage: Path,
          commands: FullCommands, progress: Progress) -> None:
    image = _image(bundle.manifest)
    seed = f"{options.table}:{image.unpacked_sha256}"
    with disk.open("wb") as file:
        file.truncate(wanted.size)
    commands.run(["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", str(disk)],
                 stdin=table_script(wanted, options.table, seed).encode())
    progress.step(f"writing {image.file} to the image partition")
    with bundle.image() as source:
        _write(disk, wanted.image_start, source, progress)
    progress.step("making the boot partition")
    efi, *guard = (loaders.take_from(disk, wanted.image_start, program, stage, commands)
                   for program in loaders.programs(options.loader))
    files = loaderfiles.initial_files(options.loader, bundle.boot_assets(), efi=efi, guard=guard[0] if guard else None,
                                      gpt=options.table == "gpt")
    epoch = calendar.timegm(time.strptime(bundle.manifest.created, "%Y-%m-%dT%H:%M:%SZ"))
    files = {**files, **flashed_files(bundle), nodeconfig.NAME: config}
    # A node makes no directory there in its life: that is nothing that a power cut leaves whole or undone.
    empty = [assetfiles.directory(slot, letter) for slot in Slot for letter in assetfiles.DIRECTORIES]
    fat.make(disk, offset=wanted.boot_start, size=wanted.boot_size, files=files, empty=empty, seed=seed, epoch=epoch,
             stage=stage / "files", commands=commands)


def flashed_files(bundle: OpenBundle) -> dict[str, bytes]:
    """What the first boot checks the flashed image slot by (steps/image_slot.py)."""
    found = {manifests.NAME: bundle.raw_manifest, manifests.SIGNATURE: bundle.raw_signature,
             indexes.NAME: bundle.raw_index()}
    return {f"k8r/bundle/{name}": data for name, data in found.items() if data}


def _image(manifest: Manifest) -> Artifact:
    found = manifest.artifact("image")
    if found is None:
        raise BuildError("the bundle has no image")
    return found


def _write(disk: Path, offset: int, source: ImageSource, progress: Progress) -> None:
    """Zeros stay holes. The hash of the whole is checked by the source."""
    at = 0
    fd = os.open(disk, os.O_RDWR)
    try:
        for data in source.chunks():
            for start in range(0, len(data), _PIECE):
                piece = data[start:start + _PIECE]
                if piece.count(0) != len(piece):
                    os.pwrite(fd, piece, offset + at + start)
            at += len(data)
            progress.bytes(at, source.size)
    finally:
        os.close(fd)
