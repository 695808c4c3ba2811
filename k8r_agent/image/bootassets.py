"""boot.tar: kernel, initrd, command line, release. A flat archive, read without trusting anything in it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

from k8r_agent.errors import BundleError
from k8r_agent.model.boot import BootAssets

# Name → most bytes.
LIMITS = {"vmlinuz": 128 << 20, "initrd.img": 384 << 20, "cmdline": 4 << 10, "release": 4 << 10}
_NEEDED = ("vmlinuz", "initrd.img")
_MAX_OTHER = 64 << 10  # bytes of a member that is skipped: pax headers
_BLOCK = 512

Sink = Callable[[bytes], object]


def read(pieces: Iterator[bytes], *, name: str) -> BootAssets:
    """Raises BundleError for anything but a flat tar with the four files (cmdline and release may be missing)."""
    found: dict[str, list[bytes]] = {}
    _walk(pieces, lambda member: found.setdefault(member, []).append, name)
    joined = {member: b"".join(found.pop(member)) for member in tuple(found)}
    return BootAssets(kernel=joined["vmlinuz"], initrd=joined["initrd.img"],
                      cmdline=_line(joined.get("cmdline", b""), name), release=_line(joined.get("release", b""), name))


def digest(pieces: Iterator[bytes], *, name: str) -> str:
    """assets_digest() of what read() would return, without holding it."""
    hashes = {member: hashlib.sha256() for member in _NEEDED}
    lines: dict[str, list[bytes]] = {"cmdline": [], "release": []}
    _walk(pieces, lambda member: hashes[member].update if member in hashes else lines[member].append, name)
    cmdline, release = (_line(b"".join(lines[member]), name) for member in ("cmdline", "release"))
    return _combined(hashes["vmlinuz"].hexdigest(), hashes["initrd.img"].hexdigest(), cmdline, release)


def assets_digest(assets: BootAssets) -> str:
    """What identifies boot assets, wherever they lie: sha256, hex. Space in the two lines does not count."""
    return _combined(hashlib.sha256(assets.kernel).hexdigest(), hashlib.sha256(assets.initrd).hexdigest(),
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


def _walk(pieces: Iterator[bytes], sink: Callable[[str], Sink], name: str) -> None:
    """Each member's bytes into its sink; to the end of `pieces`, so that whoever makes them can check their hash."""
    stream, seen = _Bytes(pieces, name), set()
    while True:
        header = b"".join(stream.take(_BLOCK))
        if not header.strip(b"\0"):
            break
        member, size, kind = _header(header, name)
        put: Sink = lambda data: None  # noqa: E731
        if kind in (b"0", b"\0"):
            if member not in LIMITS or member in seen or not 0 < size <= LIMITS[member]:
                why = "twice" if member in seen else f"{size} bytes" if member in LIMITS else "not expected"
                raise BundleError(f"{name}: {member[:100]!r} in the archive", why=why,
                                  hint=f"it may hold {', '.join(LIMITS)}, nothing else and in no directory")
            seen.add(member)
            put = sink(member)
        elif kind not in (b"5", b"x", b"g") or size > _MAX_OTHER:
            raise BundleError(f"{name}: {member[:100]!r} is not a plain file", why=f"tar type {kind!r}")
        for piece in stream.take(size):
            put(piece)
        for _ in stream.take(-size % _BLOCK):
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
