"""A slot's boot assets: what lies in image/a on the boot partition, and travels as boot.tar."""

from __future__ import annotations

import io
import re
import tarfile
from pathlib import Path

from k8r_agent.boot.assetfiles import CMDLINE, NAMES, RELEASE
from k8r_agent.boot.sdfiles import render_entry
from k8r_agent.errors import BootError, BuildError, UsageError
from k8r_agent.image.bootassets import from_files
from k8r_agent.model.boot import INITRD, KERNEL, BootAssets
from k8r_agent.model.slots import Slot

_OURS = re.compile(r"(?:^|\s)(root|boot|ro|rw|k8r\.[a-z.]+|panic|fsck\.mode|systemd\.gpt_auto|init)(?:=|\s|$)")


def check_cmdline(text: str) -> str:
    """One line, not too long, and without the arguments that the boot protocol itself sets. Raises UsageError."""
    text = " ".join(text.split())
    if not text.isascii() or not text.isprintable():
        raise UsageError("--cmdline: only printable ASCII", why=f"{text!r}")
    try:
        render_entry(Slot.WORKING, "a", text)
    except BootError as error:
        raise UsageError(f"--cmdline is {len(text)} bytes long", why=str(error), hint=error.hint) from None
    if match := _OURS.search(text):
        raise UsageError(f"--cmdline: {match[1]} is set by the boot protocol")
    return text


def from_tree(tree: Path, *, kernel_version: str, cmdline: str, release: int) -> BootAssets:
    """Raises BootError."""
    boot = tree / "boot"
    return from_files(boot / f"vmlinuz-{kernel_version}", boot / f"initrd.img-{kernel_version}", cmdline=cmdline,
                      release=str(release))


def files(assets: BootAssets) -> dict[str, bytes]:
    """File name → content, in the order of NAMES."""
    found = {name: b"".join(pieces) for name, pieces in assets.files()}
    return {KERNEL: found[KERNEL], INITRD: found[INITRD],
            CMDLINE: f"{assets.cmdline}\n".encode(), RELEASE: f"{assets.release}\n".encode()}


def write_directory(assets: BootAssets, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, data in files(assets).items():
        (directory / name).write_bytes(data)


def read_directory(directory: Path) -> BootAssets:
    """Raises BuildError when a file is missing or empty."""
    for name in NAMES:
        if not (directory / name).is_file() or not (directory / name).stat().st_size:
            raise BuildError(f"{directory} holds no complete boot assets", why=f"{name} is missing or empty")
    cmdline, release = ((directory / name).read_text().strip() for name in (CMDLINE, RELEASE))
    return from_files(directory / KERNEL, directory / INITRD, cmdline=cmdline, release=release)


def to_tar(assets: BootAssets, epoch: int) -> bytes:
    """A flat tar, the same bytes for the same assets."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in files(assets).items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.mode = len(data), epoch, 0o644
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()
