"""variables.cfg of the shell version of k8r: read as data. It was sourced as root; nothing here runs it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from k8r_agent.config import legacycluster
from k8r_agent.config.fragments import Entry, Fragment, read_as
from k8r_agent.errors import ConfigError
from k8r_agent.model.secrets import quoted

IMAGE_FILES = ("image.img.xz", "boot.tar.xz")
ELSEWHERE = {
    "IMAGE": "belongs to the build host and is not used on a node",
    "K8S_VERSION": "says what an image is built with (k8r-image build --kubernetes); on a node the version of its "
                   "kubeadm counts",
}
KNOWN = ("HTTP_IMAGE_URL", *legacycluster.NAMES, *ELSEWHERE)
_ASSIGNMENT = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
_PIECE = re.compile(r"""'([^']*)'|"((?:[^"\\]|\\.)*)"|([^\s'"#;&|<>()`$\\]+)""", re.DOTALL)


def read(file: Path) -> Fragment:
    return read_as(parse, file)


def parse(text: str, file: Path) -> Fragment:
    """Of a variable that is set twice the last counts, as in a shell; an empty one is one that is not set."""
    said: dict[str, Entry] = {}
    problems: list[ConfigError] = []
    for found in _assignments(text, file):
        if isinstance(found, ConfigError):
            problems.append(found)
        else:
            said[found.key] = found
    entries: list[Entry] = []
    said = {name: entry for name, entry in said.items() if entry.value}
    notes = [f"{entry.where}: {name} {_remark(name)}" for name, entry in said.items()
             if name not in legacycluster.NAMES]
    if url := said.get("HTTP_IMAGE_URL"):
        entries.append(Entry(section="update", key="source", value=_prefix(str(url.value)), where=url.where))
    for item in legacycluster.translate(said):
        if isinstance(item, str):
            notes.append(item)
        else:
            (entries if isinstance(item, Entry) else problems).append(item)  # type: ignore[arg-type]
    if legacycluster.JOIN not in said and not problems:  # a join string that cannot be read is not an absent one
        entries.append(Entry(section="kubernetes", key="initialise", value=True, where=str(file)))
        notes.append(f"{file}: without {legacycluster.JOIN} this node may make a new cluster")
    return Fragment(path=file, entries=tuple(entries), problems=tuple(problems), notes=tuple(notes))


def _remark(name: str) -> str:
    if name == "HTTP_IMAGE_URL":
        return ("is used as update.source. Images without a manifest are accepted from there only with "
                "update.allow_legacy = true in /etc/k8r/agent.toml")
    return ELSEWHERE.get(name, "is not a variable of k8r and is ignored")


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
            yield ConfigError(f"{quoted(line)} is not an assignment", where=where,
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
