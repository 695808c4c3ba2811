"""manifest.toml: the one signed file of a bundle, read strictly and written canonically."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable
from typing import Any

from k8r_agent.config import toml
from k8r_agent.errors import BundleError
from k8r_agent.model.bundle import FORMAT, Artifact, Manifest

NAME = "manifest.toml"
SIGNATURE = "manifest.toml.sig"
MAX_MANIFEST = 256 << 10  # bytes
MAX_SIZE = 1 << 40
MAX_RELEASE = (1 << 31) - 1
KINDS = ("image", "index", "boot")
COMPRESSIONS = ("zstd", "xz", "none")
# What is unpacked into memory is limited here, whatever a manifest says.
MAX_UNPACKED = {"image": MAX_SIZE, "index": 4 << 20, "boot": 512 << 20}

FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_BOARD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._,+-]{0,127}")  # device-tree names contain commas
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,63}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_HEADER = re.compile(r"\s*\[\[\s*artifact\s*\]\]")

_TOP = ("format", "compatible", "architecture", "release", "version", "os", "kubernetes", "created", "artifact")
_ARTIFACT = ("kind", "file", "size", "sha256", "compression", "unpacked_size", "unpacked_sha256")


def read(data: bytes, *, name: str = NAME) -> Manifest:
    """Parse and check a manifest. Raises BundleError; its message begins with file:line."""
    if len(data) > MAX_MANIFEST:
        raise BundleError(f"{name} is too large", why=f"{len(data)} bytes, at most {MAX_MANIFEST} are accepted")
    try:
        text = data.decode("utf-8")
        return _Reader(name, text).manifest(toml.loads(text))
    except UnicodeDecodeError as error:
        raise BundleError(f"{name} is not UTF-8 text", why=str(error)) from None
    except ValueError as error:
        looks_html = data.lstrip()[:1] == b"<"
        raise BundleError(f"{name} is not valid TOML", why=str(error),
                          hint="this looks like a web page: is the address right?" if looks_html else "") from None


def write(manifest: Manifest) -> bytes:
    """Canonical bytes. Raises BundleError for what read() would refuse."""
    lines = [
        f"format = {FORMAT}",
        f"compatible = [{', '.join(map(_quoted, manifest.compatible))}]",
        f"architecture = {_quoted(manifest.architecture)}",
        f"release = {manifest.release}",
        f"version = {_quoted(manifest.version)}",
        f"os = {_quoted(manifest.os)}",
        f"kubernetes = {_quoted(manifest.kubernetes)}",
        f"created = {_quoted(manifest.created)}",
    ]
    for artifact in sorted(manifest.artifacts, key=lambda a: KINDS.index(a.kind) if a.kind in KINDS else 99):
        lines += ["", "[[artifact]]"]
        for key in _ARTIFACT:
            value = getattr(artifact, key)
            lines.append(f"{key} = {value if isinstance(value, int) else _quoted(value)}")
    data = ("\n".join(lines) + "\n").encode("utf-8")
    read(data)
    return data


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")  # DEL is the one JSON allows and TOML not


class _Place:
    """A table of the file: the top one (0) or the n-th artifact."""

    def __init__(self, reader: _Reader, table: dict[str, Any], number: int, keys: tuple[str, ...]) -> None:
        self._reader, self._table, self._number = reader, table, number
        for key in table:
            if key not in keys:
                near = difflib.get_close_matches(key, keys, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(keys)}"
                raise self.error(key, f"unknown key {key!r}", hint=hint)

    def error(self, key: str, why: str, *, hint: str = "") -> BundleError:
        what = f"{self._reader.where(key, self._number)}: " + (f"artifact {self._number}" if self._number else key)
        return BundleError(what, why=f"{key}: {why}" if self._number else why, hint=hint)

    def _value(self, key: str) -> Any:
        if key not in self._table:
            raise self.error(key, "missing")
        return self._table[key]

    def text(self, key: str, accept: Callable[[str], object], what: str) -> str:
        value = self._value(key)
        if not isinstance(value, str) or not accept(value):
            raise self.error(key, f"expected {what}, got {_short(value)}")
        return value

    def number(self, key: str, low: int, high: int) -> int:
        value = self._value(key)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.error(key, f"expected a whole number from {low} to {high}, got {_short(value)}")
        return value

    def list_of(self, key: str) -> list[Any]:
        value = self._value(key)
        if not isinstance(value, list) or not value or len(value) > 64:
            raise self.error(key, f"expected a list of 1 to 64, got {_short(value)}")
        return value


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _line_of_text(limit: int) -> Callable[[str], bool]:
    return lambda text: len(text) <= limit and text.isprintable()


class _Reader:
    def __init__(self, name: str, text: str) -> None:
        self._name, self._lines = name, text.split("\n")

    def where(self, key: str, number: int) -> str:
        """file:line of a key in the n-th artifact; of the table's header when the key is missing."""
        table, header = 0, 1
        for line, content in enumerate(self._lines, 1):
            if _HEADER.match(content):
                table += 1
                header = line if table == number else header
            elif table == number and re.match(rf"""\s*["']?{re.escape(key)}["']?\s*=""", content):
                return f"{self._name}:{line}"
        return f"{self._name}:{header}"

    def manifest(self, table: dict[str, Any]) -> Manifest:
        version = table.get("format")
        if isinstance(version, int) and not isinstance(version, bool) and version > FORMAT:
            raise BundleError(f"{self.where('format', 0)}: format {version} is newer than this agent",
                              why=f"it reads format {FORMAT}", hint="update in smaller steps")
        top = _Place(self, table, 0, _TOP)
        top.number("format", FORMAT, FORMAT)
        boards = top.list_of("compatible")
        if not all(isinstance(board, str) and _BOARD.fullmatch(board) for board in boards):
            raise top.error("compatible", "expected names of boards", hint='for example ["generic-x86_64"]')
        return Manifest(
            compatible=tuple(boards),
            architecture=top.text("architecture", _WORD.fullmatch, "a word such as amd64"),
            release=top.number("release", 1, MAX_RELEASE),
            version=top.text("version", _WORD.fullmatch, "a version: letters, digits and . _ + ~ -"),
            os=top.text("os", _line_of_text(128), "at most 128 printable characters"),
            kubernetes=top.text("kubernetes", lambda s: s == "" or _WORD.fullmatch(s), "a version, or \"\""),
            created=top.text("created", _TIME.fullmatch, "a time such as 2026-11-20T11:00:00Z"),
            artifacts=self._artifacts(top),
        )

    def _artifacts(self, top: _Place) -> tuple[Artifact, ...]:
        found: list[Artifact] = []
        for number, table in enumerate(top.list_of("artifact"), 1):
            if not isinstance(table, dict):
                raise top.error("artifact", "expected [[artifact]] tables")
            place = _Place(self, table, number, _ARTIFACT)
            artifact = self._artifact(place)
            if any(artifact.kind == other.kind for other in found):
                raise place.error("kind", f"a second {artifact.kind}")
            if any(artifact.file == other.file for other in found) or artifact.file in (NAME, SIGNATURE):
                raise place.error("file", f"{artifact.file} is taken")
            found.append(artifact)
        for kind in ("image", "boot"):
            if not any(a.kind == kind for a in found):
                raise BundleError(f"{self._name}: no artifact of kind {kind!r}")
        return tuple(found)

    def _artifact(self, place: _Place) -> Artifact:
        kind = place.text("kind", KINDS.__contains__, f"one of {', '.join(KINDS)}")
        limit = MAX_UNPACKED[kind]
        hex64 = "64 lower-case hex digits"
        artifact = Artifact(
            kind=kind,
            file=place.text("file", FILE_NAME.fullmatch, "a bare file name: letters, digits and . _ -, no leading ."),
            size=place.number("size", 1, MAX_SIZE),
            sha256=place.text("sha256", _SHA256.fullmatch, hex64),
            compression=place.text("compression", COMPRESSIONS.__contains__, f"one of {', '.join(COMPRESSIONS)}"),
            unpacked_size=place.number("unpacked_size", 1, limit),
            unpacked_sha256=place.text("unpacked_sha256", _SHA256.fullmatch, hex64),
        )
        same = (artifact.size, artifact.sha256) == (artifact.unpacked_size, artifact.unpacked_sha256)
        if artifact.compression == "none" and not same:
            raise place.error("unpacked_size", "not compressed, but size or hash differ from the unpacked one")
        # Compression never makes much of little data; a size far above the unpacked one only fills memory.
        if artifact.size > artifact.unpacked_size + artifact.unpacked_size // 16 + (64 << 10):
            raise place.error("size", "larger than the unpacked data")
        return artifact
