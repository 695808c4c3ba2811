"""First stage: files as people wrote them, statement by statement, each with the line it stands on.

Every statement goes through the TOML parser on its own. That gives line numbers, which tomllib does not, and it
means that a typing error costs one statement, not the file: a node must still be reachable with a broken k8r.toml.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from k8r_agent.config.settings import SECRETS
from k8r_agent.errors import ConfigError
from k8r_agent.model.secrets import quoted

MAX_FILE = 256 << 10  # bytes; a larger file is not a configuration


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One assignment. `where` is file:line."""

    section: str
    key: str
    value: object
    where: str


@dataclass(frozen=True, kw_only=True)
class Fragment:
    """What one file says; `notes` are remarks that are no errors."""

    path: Path
    entries: tuple[Entry, ...] = ()
    problems: tuple[ConfigError, ...] = ()
    notes: tuple[str, ...] = ()


def find(root: Path) -> tuple[Path, ...]:
    """The files that count, weakest first. A file hides those of its name in weaker directories; one that is a
    link to /dev/null only hides them."""
    shipped = [root / "usr/lib/k8r/conf.d", root / "run/k8r/conf.d"]
    local = root / "etc/k8r/conf.d"
    chosen = {name: file for directory in (*shipped, local) for name, file in _drop_ins(directory)}
    vendor = [chosen[name] for name in sorted(chosen) if chosen[name].parent != local]
    own = [chosen[name] for name in sorted(chosen) if chosen[name].parent == local]
    files = [*vendor, root / "etc/k8r/agent.toml", *own, root / "boot/firmware/k8r.toml"]
    return tuple(file for file in files if not _masked(file) and file.exists())


def _drop_ins(directory: Path) -> Iterator[tuple[str, Path]]:
    if directory.is_dir():
        yield from ((file.name, file) for file in directory.iterdir() if file.name.endswith(".toml"))


def _masked(file: Path) -> bool:
    return file.is_symlink() and file.resolve() == Path("/dev/null")


def read(file: Path) -> Fragment:
    return read_as(parse, file)


def read_as(parse: Callable[[str, Path], Fragment], file: Path) -> Fragment:
    """Never raises: what is wrong with the file is among the fragment's problems."""
    try:
        if file.stat().st_size > MAX_FILE:
            raise ConfigError(f"the file is larger than {MAX_FILE >> 10} KiB", where=str(file))
        return parse(decode(file.read_bytes(), where=str(file)), file)
    except OSError as error:
        hint = "run this as root" if isinstance(error, PermissionError) else ""
        problem = ConfigError("cannot be read", where=str(file), why=error.strerror or str(error), hint=hint)
    except ConfigError as error:
        problem = error
    return Fragment(path=file, problems=(problem,))


def decode(data: bytes, *, where: str) -> str:
    """UTF-8, with the byte order mark and line ends that Windows editors add."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ConfigError("the file is UTF-16", where=where, hint="save it as UTF-8")
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError("not UTF-8 text", where=f"{where}:{line}", hint="save it as UTF-8") from None


def parse(text: str, file: Path) -> Fragment:
    entries: list[Entry] = []
    problems: list[ConfigError] = []
    seen: dict[tuple[str, str], str] = {}
    for found in _statements(text.split("\n"), file):
        if isinstance(found, ConfigError):
            problems.append(found)
            continue
        first = seen.setdefault((found.section, found.key), found.where)
        if first is not found.where:
            problems.append(ConfigError(f"{_name(found)} is set a second time", where=found.where,
                                        why=f"the first is at {first}", hint="keep one of them"))
            continue
        entries.append(found)
    return Fragment(path=file, entries=tuple(entries), problems=tuple(problems))


def _name(entry: Entry) -> str:
    return f"{entry.section}.{entry.key}" if entry.section else entry.key


def _statements(lines: list[str], file: Path) -> Iterator[Entry | ConfigError]:
    at, section = 0, ""
    while at < len(lines):
        where, line = f"{file}:{at + 1}", lines[at].strip()
        if not line or line.startswith("#"):
            at += 1
        elif line.startswith("["):
            at += 1
            header = _section(line)
            if header is None:
                yield ConfigError(f"{_quoted(line)} is not a section", where=where,
                                  hint="write [name], for example [node]")
            section = section if header is None else header
        else:
            used, parsed, why = _assignment(lines, at)
            at += used
            if parsed is None:
                yield ConfigError(f"{_quoted(line)} cannot be understood", where=where, why=why, hint=_advice(line))
            else:
                yield from _flatten(section, parsed, where)


def _quoted(line: str) -> str:
    """Of a secret only its name, however broken it is."""
    key = re.split(r"[\s=]", line, maxsplit=1)[0]
    secret = any(key in (name, name.split(".")[1]) for name in SECRETS)
    return f"what follows {key}" if secret else quoted(line)


def _section(line: str) -> str | None:
    """The dotted name of a `[header]`; None when it is none, or an array of tables, which no setting uses."""
    table: object = _loads(line)
    names: list[str] = []
    while isinstance(table, dict) and table:
        name, table = next(iter(table.items()))
        names.append(name)
    return ".".join(names) if table == {} and names else None


def _assignment(lines: list[str], at: int) -> tuple[int, dict[str, object] | None, str]:
    """Number of lines taken, and what they say. More lines are added until the parser is content."""
    why = ""
    for end in range(at + 1, len(lines) + 1):
        parsed = _loads("\n".join(lines[at:end]))
        if isinstance(parsed, dict):
            return end - at, parsed, ""
        why = why or parsed
        if "=" not in lines[at]:
            break
    return 1, None, why


def _flatten(section: str, table: dict[str, object], where: str) -> Iterator[Entry]:
    for key, value in table.items():
        if isinstance(value, dict) and not section:
            yield from _flatten(key, value, where)
        else:
            yield Entry(section=section, key=key, value=value, where=where)


def _advice(line: str) -> str:
    if "=" not in line:
        return "write: key = value"
    value = line.split("=", 1)[1].strip()
    if value.lower() in ("yes", "no", "on", "off", "true", "false"):
        return "write true or false, in lower case"
    return "put text in quotes, and close every quote and bracket"


def _loads(text: str) -> dict[str, object] | str:
    """What the text says, or why it says nothing."""
    from k8r_agent.config import toml  # its parser is slow to import, and most of the files say nothing

    try:
        return toml.loads(text)
    except ValueError as error:
        return str(error).split(" (at ")[0]
