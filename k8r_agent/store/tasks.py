"""tasks/*.toml: sequences of steps as data. Checked strictly when loaded, never in the middle of a run."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from k8r_agent.config import toml
from k8r_agent.errors import TaskFileError
from k8r_agent.model.task import StepRule, Task
from k8r_agent.model.txn import Transaction
from k8r_agent.model.units import parse_duration

FORMAT = 1
DIRECTORIES = (Path("/etc/k8r/tasks"), Path("/usr/lib/k8r/tasks"))  # the first that has the name wins
_KEYS = ("format", "summary", "args", "steps", "on_failure", "point_of_no_return", "step")
_RULE_KEYS = ("timeout", "max_tries", "holds_until")
_NAME = re.compile(r"[a-z][a-z0-9-]{0,63}")
_TRIES_LIMIT = 100


class TaskFiles:
    """`known` are the names of the steps that this agent has."""

    def __init__(self, known: Iterable[str], directories: Iterable[Path] = DIRECTORIES) -> None:
        self._known = tuple(known)
        self._directories = tuple(directories)

    def names(self) -> tuple[str, ...]:
        found = {path.stem for d in self._directories if d.is_dir() for path in d.glob("*.toml")}
        return tuple(sorted(found))

    def load(self, name: str) -> Task:
        """Raises TaskFileError with file:line."""
        for directory in self._directories:
            path = directory / f"{name}.toml"
            if _NAME.fullmatch(name) and path.is_file():
                return parse(path, self._known)
        raise TaskFileError(f"no task {name!r}", hint=_nearest(name, self.names()) or
                            f"there is: {', '.join(self.names()) or 'none'}")

    def resume(self, txn: Transaction) -> Task:
        """The rules for a transaction that already runs: a file that changed, broke or went since must not strand it,
        nor make it forget what must hold and where its point of no return is."""
        found = None
        for directories in (self._directories, self._directories[-1:]):
            try:
                found = TaskFiles(self._known, directories).load(txn.task)
                break
            except TaskFileError:
                continue
        if found and found.steps == txn.steps:
            return found
        return txn.definition or found or self._unknown(txn)

    def _unknown(self, txn: Transaction) -> Task:
        """Nobody knows its point of no return: it is taken as passed from the first attempt on."""
        return Task(name=txn.task, summary="", steps=txn.steps, point_of_no_return=txn.steps[0] if txn.steps else "",
                    on_failure=tuple(name for name in ("disarm", "hold-image") if name in self._known))

    def check(self) -> tuple[TaskFileError, ...]:
        """Every fault in every file, for `config check`."""
        faults = []
        for name in self.names():
            try:
                self.load(name)
            except TaskFileError as error:
                faults.append(error)
        return tuple(faults)


def parse(path: Path, known: Iterable[str]) -> Task:
    """Raises TaskFileError with file:line and the nearest known name."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TaskFileError("cannot be read", where=str(path), why=str(error)) from None
    try:
        data = toml.loads(text)
    except ValueError as error:
        line = re.search(r"line (\d+)", str(error))
        raise TaskFileError("is not TOML", where=f"{path}:{line[1] if line else 1}", why=str(error)) from None
    return _Parser(path, text, tuple(known)).task(data)


class _Parser:
    def __init__(self, path: Path, text: str, known: tuple[str, ...]) -> None:
        self._path, self._lines, self._known = path, text.splitlines(), known

    def task(self, data: Mapping[str, Any]) -> Task:
        self._keys(data, _KEYS, "")
        if data.get("format") != FORMAT:
            raise self._fault("format", f"format must be {FORMAT}")
        steps = self._names(data, "steps", self._known)
        if not steps or len(set(steps)) != len(steps):
            raise self._fault("steps", "steps must name at least one step, and each only once")
        point = self._text(data, "point_of_no_return")
        if point:
            self._one_of(point, steps, "point_of_no_return", "is not a step of this task")
        on_failure = self._names(data, "on_failure", self._known)
        return Task(name=self._path.stem, summary=self._text(data, "summary"), steps=steps, point_of_no_return=point,
                    args=self._names(data, "args", ()), on_failure=on_failure,
                    rules=self._rules(data.get("step", {}), steps, on_failure))

    def _rules(self, tables: object, steps: tuple[str, ...], on_failure: tuple[str, ...]) -> dict[str, StepRule]:
        if not isinstance(tables, dict):
            raise self._fault("step", "step must be a table: [step.<name>]")
        rules = {}
        for name, table in tables.items():
            self._one_of(name, (*steps, *on_failure), f"step.{name}", "is not a step of this task")
            if not isinstance(table, dict):
                raise self._fault(f"step.{name}", f"step.{name} must be a table")
            self._keys(table, _RULE_KEYS, f"step.{name}")
            rules[name] = self._rule(name, table, steps)
        return rules

    def _rule(self, name: str, table: Mapping[str, Any], steps: tuple[str, ...]) -> StepRule:
        where, default = f"step.{name}", StepRule()
        tries = table.get("max_tries", default.max_tries)
        if not isinstance(tries, int) or isinstance(tries, bool) or not 1 <= tries <= _TRIES_LIMIT:
            raise self._fault("max_tries", f"max_tries must be a number from 1 to {_TRIES_LIMIT}", section=where)
        timeout = default.timeout
        if "timeout" in table:
            try:
                timeout = parse_duration(self._text(table, "timeout", section=where))
            except ValueError as error:
                raise self._fault("timeout", str(error), section=where) from None
        holds = self._text(table, "holds_until", section=where)
        if holds:
            self._one_of(holds, steps, "holds_until", "is not a step of this task", section=where)
            if name not in steps or steps.index(holds) <= steps.index(name):
                raise self._fault("holds_until", f"{holds!r} does not come after {name!r}", section=where)
        return StepRule(timeout=timeout, max_tries=tries, holds_until=holds)

    def _keys(self, table: Mapping[str, Any], known: tuple[str, ...], section: str) -> None:
        for key in table:
            if key not in known:
                raise self._fault(key, f"unknown key {key!r}", section=section, hint=_nearest(key, known))

    def _text(self, table: Mapping[str, Any], key: str, *, section: str = "") -> str:
        value = table.get(key, "")
        if not isinstance(value, str):
            raise self._fault(key, f"{key} must be a string", section=section)
        return value

    def _names(self, table: Mapping[str, Any], key: str, known: tuple[str, ...]) -> tuple[str, ...]:
        value = table.get(key, [])
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise self._fault(key, f"{key} must be a list of strings")
        for name in value if known else ():
            self._one_of(name, known, key, "is not a step that this agent has")
        return tuple(value)

    def _one_of(self, name: str, known: tuple[str, ...], key: str, what: str, *, section: str = "") -> None:
        if name not in known:
            line = self._line(key if key == f"step.{name}" else name, section, key)
            raise TaskFileError(f"{name!r} {what}", where=f"{self._path}:{line}", hint=_nearest(name, known))

    def _fault(self, key: str, message: str, *, section: str = "", hint: str = "") -> TaskFileError:
        return TaskFileError(message, where=f"{self._path}:{self._line(key, section, key)}", hint=hint)

    def _line(self, word: str, section: str, key: str) -> int:
        """Where `word` stands after `key` in its section, else where the key does, else the section's head: the TOML
        library keeps no positions."""
        head = next((i for i, line in enumerate(self._lines) if line.strip() == f"[{section}]"), 0) if section else 0
        at_key = self._find(key, head)
        if at_key is None:
            return head + 1
        at_word = self._find(word, at_key)
        return (at_key if at_word is None else at_word) + 1

    def _find(self, word: str, start: int) -> int | None:
        pattern = re.compile(rf"(?<![\w-]){re.escape(word)}(?![\w-])")
        return next((n for n in range(start, len(self._lines)) if pattern.search(self._lines[n].split("#")[0])), None)


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else ""
