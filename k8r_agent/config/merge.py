"""Second and third stage: fragments → merged → settings. A valid statement counts, a bad one is a problem."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from k8r_agent.config.conflicts import conflicts
from k8r_agent.config.fragments import Entry, Fragment
from k8r_agent.config.settings import Settings
from k8r_agent.config.table import BY_NAME, SECTIONS, TABLE
from k8r_agent.errors import ConfigError
from k8r_agent.model.secrets import scrub


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """`origin` maps `section.key` to file:line for everything that is not a default."""

    settings: Settings
    origin: Mapping[str, str]
    files: tuple[str, ...]
    problems: tuple[ConfigError, ...]
    notes: tuple[str, ...]


def merge(fragments: Iterable[Fragment]) -> Loaded:
    """Later fragments win, key by key. Lists are replaced, not joined."""
    problems: list[ConfigError] = []
    notes: list[str] = []
    values: dict[str, object] = {}
    origin: dict[str, str] = {}
    files: list[str] = []
    for fragment in fragments:
        files.append(str(fragment.path))
        problems += fragment.problems
        notes += fragment.notes
        for entry in fragment.entries:
            name = f"{entry.section}.{entry.key}"
            try:
                values[name] = _value(entry)
                origin[name] = entry.where
            except ConfigError as problem:
                problems.append(problem)
    problems += conflicts(values, origin)
    return Loaded(settings=_settings(values), origin=origin, files=tuple(files),
                  problems=tuple(map(_scrubbed, problems)), notes=tuple(map(scrub, notes)))


def _scrubbed(problem: ConfigError) -> ConfigError:
    """A secret may have been written where another value belongs."""
    clean = ConfigError(scrub(problem.what), why=scrub(problem.why), hint=scrub(problem.hint))
    clean.where = problem.where
    return clean


def _value(entry: Entry) -> object:
    """Raises ConfigError for an unknown name or a value of the wrong kind."""
    row = BY_NAME.get(f"{entry.section}.{entry.key}")
    if row is None:
        raise _unknown(entry)
    try:
        return row.read(entry.value)
    except ValueError as error:
        raise ConfigError(f"{row.name}: {error}", where=entry.where,
                          hint=f"{row.name} takes: {row.kind}; see k8r-agent.toml(5)") from None


def _unknown(entry: Entry) -> ConfigError:
    if entry.section not in SECTIONS:
        if not entry.section:
            hint = _nearest(entry.key, [row.key for row in TABLE])
            homes = [row.section for row in TABLE if row.key == entry.key]
            hint = f"it belongs under [{homes[0]}]" if homes else hint
            return ConfigError(f"{entry.key} stands outside a section", where=entry.where, hint=hint)
        return ConfigError(f"there is no section [{entry.section}]", where=entry.where,
                           hint=_nearest(entry.section, SECTIONS))
    keys = [row.key for row in TABLE if row.section == entry.section]
    elsewhere = [row.section for row in TABLE if row.key == entry.key]
    hint = f"it belongs under [{elsewhere[0]}]" if elsewhere else _nearest(entry.key, keys)
    return ConfigError(f"there is no key {entry.key} in [{entry.section}]", where=entry.where, hint=hint)


def _nearest(name: str, known: Iterable[str]) -> str:
    import difflib

    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"known are: {', '.join(names)}"


def _settings(values: Mapping[str, object]) -> Settings:
    settings = Settings()
    for section in SECTIONS:
        mine = {name.split(".", 1)[1]: value for name, value in values.items() if name.startswith(section + ".")}
        settings = replace(settings, **{section: replace(getattr(settings, section), **mine)})
    return settings
