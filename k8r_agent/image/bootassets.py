"""boot.tar: kernel, initrd, command line, release. A flat archive, read without trusting anything in it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

from k8r_agent.effects.pieces import pieces_of
from k8r_agent.errors import BootError, BundleError
from k8r_agent.model.boot import INITRD, KERNEL, BootAssets, Content

# Name → most bytes.
LIMITS = {KERNEL: 128 << 20, INITRD: 384 << 20, "cmdline": 4 << 10, "release": 4 << 10}
_NEEDED = (KERNEL, INITRD)
_MAX_OTHER = 64 << 10  # bytes of a member that is skipped: pax headers
_BLOCK = 512
_PIECE = 1 << 20


def read(opened: Callable[[], Iterator[bytes]], *, name: str) -> BootAssets:
    """What is in the archive; `opened` gives its bytes from the beginning, now and whenever the files are read.

    Raises BundleError for anything but a flat tar with the four files (cmdline and release may be missing)."""
    found: dict[str, Content] = {}
    lines = {"cmdline": b"", "release": b""}
    for member, pieces in _members(opened(), name):
        if member in lines:
            lines[member] = b"".join(pieces)
        else:
            found[member] = Content.of(pieces)
    return BootAssets(kernel=found[KERNEL], initrd=found[INITRD], cmdline=_line(lines["cmdline"], name),
                      release=_line(lines["release"], name),
                      files=lambda: (pair for pair in _members(opened(), name) if pair[0] in _NEEDED))


def from_files(kernel: Path, initrd: Path, *, cmdline: str, release: str) -> BootAssets:
    """Raises BootError when one cannot be read or is empty."""
    paths = {KERNEL: kernel, INITRD: initrd}
    found = {member: Content.of(pieces_of(path)) for member, path in paths.items()}
    for member, content in found.items():
        if not content.size:
            raise BootError("an empty kernel or initrd is of no use", why=f"{paths[member]}")
    return BootAssets(kernel=found[KERNEL], initrd=found[INITRD], cmdline=cmdline, release=release,
                      files=lambda: ((member, pieces_of(path)) for member, path in paths.items()))


def assets_digest(assets: BootAssets) -> str:
    """What identifies boot assets, wherever they lie: sha256, hex. Space in the two lines does not count."""
    return _combined(assets.kernel.sha256, assets.initrd.sha256,
                     " ".join(assets.cmdline.split()), " ".join(assets.release.split()))


def _combined(kernel: str, initrd: str, cmdline: str, release: str) -> str:
    return hashlib.sha256(f"{kernel}\n{initrd}\n{cmdline}\n{release}\n".encode()).hexdigest()


def _line(data: bytes, name: str) -> str:
    try:
        text = " ".join(data.decode("ascii").split())
    except UnicodeDecodeError:
        text = "\0"
    if not text.isprintable():
        raise BundleError(f"{name}: cmdline and release must be printable ASCII")
    return text


class _Bytes:
    """Exact reads over pieces."""

    def __init__(self, pieces: Iterator[bytes], name: str) -> None:
        self._pieces, self._left, self._name = pieces, b"", name

    def take(self, length: int) -> Iterator[bytes]:
        while length:
            if not self._left:
                self._left = next(self._pieces, b"")
                if not self._left:
                    raise BundleError(f"{self._name} is cut off")
            piece, self._left = self._left[:length], self._left[length:]
            length -= len(piece)
            yield piece

    def drain(self) -> None:
        self._left = b""
        for _ in self._pieces:
            pass


def _members(pieces: Iterator[bytes], name: str) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Each file and its bytes, to be read before the next one; what is left of it is skipped. It goes on to the end of
    `pieces`, so that whoever makes them can check their hash."""
    stream, seen = _Bytes(pieces, name), set()
    while True:
        header = b"".join(stream.take(_BLOCK))
        if not header.strip(b"\0"):
            break
        member, size, kind = _header(header, name)
        content = stream.take(size)
        if kind in (b"0", b"\0"):
            if member not in LIMITS or member in seen or not 0 < size <= LIMITS[member]:
                why = "twice" if member in seen else f"{size} bytes" if member in LIMITS else "not expected"
                raise BundleError(f"{name}: {member[:100]!r} in the archive", why=why,
                                  hint=f"it may hold {', '.join(LIMITS)}, nothing else and in no directory")
            seen.add(member)
            yield member, content
        elif kind not in (b"5", b"x", b"g") or size > _MAX_OTHER:
            raise BundleError(f"{name}: {member[:100]!r} is not a plain file", why=f"tar type {kind!r}")
        for rest in (content, stream.take(-size % _BLOCK)):
            for _ in rest:
                pass
    stream.drain()
    if missing := [member for member in _NEEDED if member not in seen]:
        raise BundleError(f"{name}: no {' and no '.join(missing)} in the archive")


def _header(header: bytes, name: str) -> tuple[str, int, bytes]:
    """(name, size, type) of a ustar header (POSIX.1-1988). The checksum guards against reading garbage as sizes."""
    try:
        checksum = int(header[148:156].strip(b"\0 ") or b"x", 8)
        size = int(header[124:136].strip(b"\0 ") or b"0", 8)
        member = header[:100].split(b"\0")[0].decode("ascii")
        prefix = header[345:500].split(b"\0")[0].decode("ascii") if header[257:262] == b"ustar" else ""
    except ValueError:
        raise BundleError(f"{name} is not a tar archive") from None
    if checksum != sum(header[:148]) + 8 * 0x20 + sum(header[156:]) or size < 0:
        raise BundleError(f"{name} is not a tar archive", why="wrong checksum of a header")
    path = f"{prefix}/{member}" if prefix else member
    return path[2:] if path.startswith("./") and path != "./" else path, size, header[156:157]
