"""Where the packages come from: the host's own apt configuration, so that no mirror is written anywhere here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from k8r_agent.effects.commands import FullCommands
from k8r_agent.errors import UsageError

ETC_APT = Path("/etc/apt")
# Proxies, timeouts, date checks of a frozen mirror. Not: Languages, IndexTargets, which would be the host's taste.
_PASSED_ON = re.compile(
    r"Acquire::(http|https|ftp|Check-Date|Check-Valid-Until|Max-FutureTime|Retries|ForceIPv[46])\b")
_LINE = re.compile(r"deb\s+(?:\[[^\]]*\]\s+)?\S+\s+(?P<suite>\S+)\s+\S")


def _belongs(suites: str, suite: str) -> bool:
    return any(word == suite or word.startswith(f"{suite}-") for word in suites.split())


def _stanzas(text: str) -> Iterator[dict[str, str]]:
    """deb822: fields by lower-case name; a continuation keeps its line break."""
    stanza: dict[str, str] = {}
    last = ""
    for line in [*text.splitlines(), ""]:
        if line.startswith("#"):
            continue
        if not line.strip():
            if stanza:
                yield stanza
            stanza, last = {}, ""
        elif line[0] in " \t" and last:
            stanza[last] += f"\n{line}"
        elif ":" in line:
            last, _, value = line.partition(":")
            last = last.strip().lower()
            stanza[last] = value.strip()


def select_stanzas(text: str, suite: str) -> str:
    """Stanzas of a deb822 .sources file that hold binary packages of `suite` (with -updates, -security)."""
    kept = []
    for stanza in _stanzas(text):
        types = stanza.get("types", "").split()
        if "deb" in types and _belongs(stanza.get("suites", ""), suite) and stanza.get("enabled", "yes") != "no":
            stanza["types"] = "deb"
            kept.append("".join(f"{key.title()}: {value}\n" for key, value in stanza.items()))
    return "\n".join(kept)


def select_lines(text: str, suite: str) -> str:
    """The same for one-line .list files."""
    lines = (line.strip() for line in text.splitlines())
    return "".join(f"{line}\n" for line in lines if (match := _LINE.match(line)) and _belongs(match["suite"], suite))


def host_sources(suite: str, etc: Path = ETC_APT) -> dict[str, str]:
    """The host's sources for `suite`, by the file name to write ("host.list", "host.sources").

    Raises UsageError when the host has none.
    """
    parts = sorted((etc / "sources.list.d").glob("*")) if (etc / "sources.list.d").is_dir() else []
    lists = [etc / "sources.list", *(p for p in parts if p.suffix == ".list")]
    found = {
        "host.list": "".join(select_lines(p.read_text(), suite) for p in lists if p.is_file()),
        "host.sources": "\n".join(filter(None, (select_stanzas(p.read_text(), suite)
                                                for p in parts if p.suffix == ".sources"))),
    }
    found = {name: text for name, text in found.items() if text}
    if not found:
        raise UsageError(f"this host's apt has no sources for {suite}",
                         why=f"no line or stanza in {etc} names it", hint="give --mirror URL or --mirror FILE")
    return found


def acquire_options(commands: FullCommands) -> tuple[str, ...]:
    """The host's settings of how to fetch (proxy, checks of a frozen mirror), as lines of an apt.conf."""
    listed = commands.run(["apt-config", "dump", "--no-empty", "--format", '%f "%v";%n', "Acquire"]).stdout
    return tuple(line for line in listed.splitlines() if _PASSED_ON.match(line))
