"""The generated parts of the manual pages: python3 -m k8r_agent.cli.manual FILE…

A page holds lines `<!-- begin NAME -->` and `<!-- end NAME -->`; what is between them comes from the table of verbs,
the table of settings, the list of exit codes or the classes of errors. The result is committed; a test compares.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from k8r_agent.cli.app import build
from k8r_agent.cli.completion import leaves
from k8r_agent.cli.verbs import EVERYDAY, PLUMBING, VERBS, Verb
from k8r_agent.config.table import SECTIONS, TABLE, toml_text
from k8r_agent.errors import Exit, K8rError

MEANING = {
    Exit.OK: "It worked, or there was nothing to do. For **check**: there is a newer release.",
    Exit.FAILED: "It failed, was refused, or whoever followed it detached with Ctrl-C.",
    Exit.USAGE: "The command line is wrong, or the verb needs root.",
    Exit.BUSY: "Another transaction is running, queued, or holds the device. Try later.",
    Exit.NOTHING_TO_DO: "There was nothing to do. Only **check** says so unasked, other verbs with **--exit-77**.",
    Exit.BAD_CONFIG: "A configuration or task file is wrong; every mistake is listed with file and line.",
}
_BLOCK = re.compile(r"(<!-- begin (\w+) -->\n).*?(<!-- end \2 -->)", re.DOTALL)


def fill(page: str) -> str:
    """Raises KeyError for a block of an unknown name."""
    parts = {"everyday": lambda: _verbs(EVERYDAY), "plumbing": lambda: _verbs(PLUMBING), "settings": _settings,
             "exits": _exits, "codes": _codes}
    return _BLOCK.sub(lambda m: f"{m[1]}\n{parts[m[2]]()}\n{m[3]}", page)


def _verbs(verbs: tuple[Verb, ...]) -> str:
    wanted = {verb.name for verb in verbs}
    blocks = []
    for path, verb in leaves():
        top = path.split(" ")[0]
        if top in wanted:
            blocks.append(_verb(path, verb, hidden=verb.hidden or any(v.hidden for v in VERBS if v.name == top)))
    return "\n".join(blocks)


def _verb(path: str, verb: Verb, *, hidden: bool) -> str:
    parser = build(verb, path)
    words = [f"**{path}**"]
    options = []
    for action in parser._actions:
        if action.option_strings:
            if action.dest not in ("help", "json"):
                words.append(f"[{_flags(action)}]")
                options.append(_defined(_flags(action), action.help or ""))
        else:
            name = f"*{action.metavar}*"
            words.append(f"[{name}{'...' if action.nargs == '*' else ''}]")
            options.append(_defined(name, action.help or ""))
    who = " (called by units and hooks)" if hidden else ""
    return "\n".join([f"## {' '.join(words)}", "", f"{verb.summary[0].upper()}{verb.summary[1:]}{who}.", "", *options])


def _defined(name: str, meaning: str) -> str:
    return f"{name}\n:   {meaning[0].upper()}{meaning[1:]}.\n"


def _flags(action: argparse.Action) -> str:
    flags = ", ".join(f"**{flag}**" for flag in action.option_strings)
    return flags if action.nargs == 0 else f"{flags} *{action.metavar or action.dest.upper()}*"


def _settings() -> str:
    lines: list[str] = []
    for section, summary in SECTIONS.items():
        lines += [f"## [{section}]", "", summary, ""]
        for row in TABLE:
            if row.section == section:
                meaning = f"{row.help[0].upper()}{row.help[1:]}. {row.doc}"
                default = "Default: not set." if row.default is None else f"Default: `{toml_text(row, row.default)}`."
                lines += [f"**{row.key}** = *{row.kind}*", f":   {meaning} {default}", ""]
    return "\n".join(lines)


def _exits() -> str:
    return "\n".join(f"**{int(code)}**\n:   {MEANING[code]}\n" for code in Exit)


def _codes() -> str:
    """Every code that an error can carry, by exit status."""
    by_exit: dict[Exit, set[str]] = {}
    kinds: list[type[K8rError]] = [K8rError]
    while kinds:
        kind = kinds.pop()
        if kind.__module__ == K8rError.__module__:
            by_exit.setdefault(kind.exit, set()).add(kind.code)
        kinds += kind.__subclasses__()
    by_exit[Exit.FAILED] |= {"internal", "task-failed"}
    return "\n".join(f"**{int(number)}**\n:   {', '.join(sorted(codes))}.\n"
                     for number, codes in sorted(by_exit.items()))


if __name__ == "__main__":
    for name in sys.argv[1:]:
        Path(name).write_text(fill(Path(name).read_text()))
