"""The files of a freshly flashed boot partition: primary = image, so that the first boot boots the image slot."""

from __future__ import annotations

from k8r_agent.build import assets
from k8r_agent.model.boot import BootAssets


def boot_files(loader: str, boot: BootAssets, *, efi: bytes) -> dict[str, bytes]:
    """Path → content."""
    files = {f"image/a/{name}": data for name, data in assets.files(boot).items()}
    files["EFI/BOOT/BOOTX64.EFI"] = efi
    cmdline = f"boot=k8r k8r.slot=image gpt panic=10 fsck.mode=skip systemd.gpt_auto=0 {boot.cmdline}"
    files["loader/loader.conf"] = _pad("default k8r-image*\ntimeout 0\neditor no\nconsole-mode keep\n")
    files["loader/entries/k8r-image.conf"] = _pad(
        "title image\nsort-key k8r-2\nlinux /image/a/vmlinuz\ninitrd /image/a/initrd.img\n"
        f"options {cmdline.strip()}\n")
    return files


def _pad(text: str) -> bytes:
    return (text + "#").encode().ljust(511) + b"\n"
