"""config show, config check."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from k8r_agent.cli.console import Console
from k8r_agent.config import ConfigProblems, fragments, legacy, read_all
from k8r_agent.config.merge import Loaded, merge
from k8r_agent.config.setting import Setting
from k8r_agent.config.settings import SECRETS
from k8r_agent.config.table import BY_NAME, SECTIONS, TABLE, toml_text
from k8r_agent.errors import Exit, UsageError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from k8r_agent.cli.node import Node


def arguments_show(parser: ArgumentParser) -> None:
    parser.add_argument("key", nargs="?", metavar="KEY", help="only this setting, for example update.source")


def run_show(args: Namespace, console: Console, node: Node) -> int:
    """Shows what is valid even when something else is not: this is what the node runs with."""
    loaded = read_all(node.root)
    if args.key and args.key not in BY_NAME:
        import difflib

        near = difflib.get_close_matches(args.key, list(BY_NAME), n=1)
        raise UsageError(f"there is no setting {args.key!r}", hint=f"did you mean {near[0]}?" if near else "")
    if args.key:
        row = BY_NAME[args.key]
        console.say(toml_text(row, _value(loaded, row)))
    else:
        console.say(*_lines(loaded))
    shown, origin = _shown(loaded), dict(loaded.origin)
    if args.key:
        shown = {row.section: {row.key: shown[row.section][row.key]}}
        origin = {name: where for name, where in origin.items() if name == args.key}
    console.result({"settings": shown, "origin": origin, "files": list(loaded.files),
                    "problems": [problem.as_dict() for problem in loaded.problems], "notes": list(loaded.notes)})
    if loaded.problems:
        console.note("", f"{len(loaded.problems)} statements are wrong and not used: `k8r-agent config check`")
        return Exit.BAD_CONFIG
    return Exit.OK


def _value(loaded: Loaded, row: Setting) -> object:
    return getattr(getattr(loaded.settings, row.section), row.key)


def _assignment(row: Setting, value: object) -> str:
    return f"{'# ' if value is None else ''}{row.key} = {toml_text(row, value)}"


def _shown(loaded: Loaded) -> dict[str, dict[str, object]]:
    """The settings for programs; of a secret only whether it is set."""
    found: dict[str, dict[str, object]] = asdict(loaded.settings)
    for section, key in (name.split(".") for name in SECRETS):
        found[section][key] = bool(found[section][key])
    return found


def _lines(loaded: Loaded) -> list[str]:
    """A complete configuration file that says where each line comes from."""
    lines: list[str] = []
    for section in SECTIONS:
        rows = [row for row in TABLE if row.section == section]
        texts = [_assignment(row, _value(loaded, row)) for row in rows]
        width = min(48, max(map(len, texts)))
        lines += ["", f"[{section}]"] if lines else [f"[{section}]"]
        lines += [f"{text.ljust(width)}  # {loaded.origin.get(row.name, 'default')}"
                  for row, text in zip(rows, texts, strict=True)]
    return lines


def arguments_check(parser: ArgumentParser) -> None:
    parser.add_argument("files", nargs="*", metavar="FILE", type=Path,
                        help="check these files instead of the node's (.toml, or a legacy variables.cfg)")


def run_check(args: Namespace, console: Console, node: Node) -> int:
    """Raises ConfigProblems with everything that is wrong, in the settings and in the task files."""
    if args.files:
        loaded = merge([legacy.read(file) if file.suffix == ".cfg" else fragments.read(file) for file in args.files])
        tasks: list[str] = []
        problems = loaded.problems
    else:
        loaded = read_all(node.root)
        tasks, wrong = node.check_tasks()
        problems = (*loaded.problems, *wrong)
    if problems:
        raise ConfigProblems(problems)
    console.say(*(f"note: {note}" for note in loaded.notes))
    console.say(*(f"ok: {name}" for name in loaded.files), *(f"ok: task {name}" for name in tasks))
    if not loaded.files:
        console.say("no configuration file: every setting has its default")
    console.result({"files": list(loaded.files), "tasks": tasks, "notes": list(loaded.notes), "problems": []})
    return Exit.OK


