"""variables.cfg of the shell version of k8r: read as data. It was sourced as root; nothing here runs it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from k8r_agent.config.fragments import Entry, Fragment, read_as
from k8r_agent.errors import ConfigError

IMAGE_FILES = ("image.img.xz", "boot.tar.xz")
# No step of this release uses these: they are recognised so that nobody takes them for typing errors.
NOT_YET = ("K8S_VERSION", "CONTROL_PLANE_ENDPOINT", "TOKEN_TTL", "POD_NETWORK_CIDR", "CNI_TYPE", "CALICO_VERSION",
           "KUBEADM_JOIN_STRING")
BUILD_ONLY = ("IMAGE",)
KNOWN = ("HTTP_IMAGE_URL", *NOT_YET, *BUILD_ONLY)
_SECRET = ("KUBEADM_JOIN_STRING",)
_ASSIGNMENT = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
_PIECE = re.compile(r"""'([^']*)'|"((?:[^"\\]|\\.)*)"|([^\s'"#;&|<>()`$\\]+)""", re.DOTALL)


def read(file: Path) -> Fragment:
    return read_as(parse, file)


def parse(text: str, file: Path) -> Fragment:
    entries: list[Entry] = []
    problems: list[ConfigError] = []
    notes: list[str] = []
    for found in _assignments(text, file):
        if isinstance(found, ConfigError):
            problems.append(found)
        elif found.key == "HTTP_IMAGE_URL":
            if found.value:
                entries.append(Entry(section="update", key="source", value=_prefix(str(found.value)),
                                     where=found.where))
                notes.append(f"{found.where}: HTTP_IMAGE_URL is used as update.source. Images without a manifest "
                             "are accepted from there only with update.allow_legacy = true in /etc/k8r/agent.toml")
        else:
            notes.append(f"{found.where}: {_remark(found)}")
    return Fragment(path=file, entries=tuple(entries), problems=tuple(problems), notes=tuple(notes))


def _remark(entry: Entry) -> str:
    if entry.key in BUILD_ONLY:
        return f"{entry.key} belongs to the build host and is not used on a node"
    if entry.key in NOT_YET:
        shown = "(secret)" if entry.key in _SECRET and entry.value else repr(entry.value)
        return f"{entry.key} = {shown} is recognised but not used: this release has no Kubernetes steps yet"
    return f"{entry.key} is not a variable of k8r and is ignored"


def _prefix(url: str) -> str:
    """Some had the prefix in it, some the URL of one of the two files."""
    for name in IMAGE_FILES:
        url = url[: -len(name)] if url.endswith("/" + name) else url
    return url


def _assignments(text: str, file: Path) -> Iterator[Entry | ConfigError]:
    lines = text.split("\n")
    at = 0
    while at < len(lines):
        start, line = at, lines[at].strip()
        at += 1
        if not line or line.startswith("#"):
            continue
        where = f"{file}:{start + 1}"
        match = _ASSIGNMENT.fullmatch(line)
        if not match:
            yield ConfigError(f"{line[:60]!r} is not an assignment", where=where,
                              why="the file is read as data, its commands are not run", hint='write NAME="value"')
            continue
        raw = match[2]
        while _open_quote(raw) and at < len(lines):
            raw += "\n" + lines[at]
            at += 1
        try:
            yield Entry(section="", key=match[1], value=unquote(raw), where=where)
        except ValueError as error:
            yield ConfigError(f"{match[1]} cannot be read as data", where=where, why=str(error),
                              hint="write the value itself, in single quotes")


def _open_quote(raw: str) -> bool:
    rest = _PIECE.sub("", raw)
    return "'" in rest or '"' in rest


def unquote(raw: str) -> str:
    """A shell word without any expansion. Raises ValueError for what a shell would have run or replaced."""
    value, at = "", 0
    raw = raw.strip()
    while at < len(raw):
        piece = _PIECE.match(raw, at)
        if piece is None:
            if raw[at].isspace() and raw[at:].lstrip()[:1] in ("", "#"):
                return value
            raise ValueError(_refusal(raw[at:]))
        single, double, bare = piece.groups()
        if double is not None:
            value += _double(double)
        else:
            value += single if single is not None else _bare(bare, first=at == 0)
        at = piece.end()
    return value


def _double(inside: str) -> str:
    """Double quotes: only \\ before $ ` " \\ and a newline means anything (POSIX 2.2.3)."""
    plain = re.sub(r"\\.", "", inside, flags=re.DOTALL)
    if "$" in plain or "`" in plain:
        raise ValueError(_refusal(plain[min(i for i in (plain.find("$"), plain.find("`")) if i >= 0):]))
    return re.sub(r"\\(\n|[$`\"\\])", lambda m: "" if m[1] == "\n" else m[1], inside)


def _bare(word: str, *, first: bool) -> str:
    if any(c in word for c in "*?[{") or (first and word.startswith("~")):
        raise ValueError(f"a shell would expand {word!r}")
    return word


def _refusal(rest: str) -> str:
    if rest.startswith(("$(", "`")):
        return "it contains a command substitution, which would run a program"
    if rest.startswith("$"):
        return f"it refers to another variable ({rest.split()[0]})"
    if rest[0] in "'\"":
        return "a quote is not closed"
    return f"unexpected {rest.split()[0]!r}: quote the value"
