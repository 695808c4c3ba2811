"""Boot assets of a few bytes, in memory."""

from __future__ import annotations

from k8r_agent.model.boot import INITRD, KERNEL, BootAssets, Content


def in_memory(*, kernel: bytes, initrd: bytes, cmdline: str, release: str) -> BootAssets:
    return BootAssets(kernel=Content.of([kernel]), initrd=Content.of([initrd]), cmdline=cmdline, release=release,
                      files=lambda: iter(((KERNEL, iter([kernel])), (INITRD, iter([initrd])))))


def files_of(assets: BootAssets) -> dict[str, bytes]:
    """Name → bytes of kernel and initrd."""
    return {name: b"".join(pieces) for name, pieces in assets.files()}


def kernel_of(assets: BootAssets) -> bytes:
    return files_of(assets)[KERNEL]
