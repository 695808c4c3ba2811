"""The fault catalogue names tests: each exists and carries its row's number; no row is without one or a reason."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
FAULTS = 41


def rows() -> dict[int, tuple[str, set[str]]]:
    """Number → (what happens, tests)."""
    found = {}
    for line in (ROOT / "docs" / "fault-catalogue.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0].isdecimal():
            assert len(cells) == 4 and int(cells[0]) not in found, line
            found[int(cells[0])] = (cells[2], set(re.findall(r"`([^`]+::[^`]+)`", cells[3])))
    return found


def marked() -> dict[str, set[int]]:
    """file::function → the rows it is marked with."""
    found: dict[str, set[int]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                marks = {int(ast.unparse(call.args[0])) for call in node.decorator_list
                         if isinstance(call, ast.Call) and ast.unparse(call.func) == "pytest.mark.fault"}
                if marks:
                    found[f"{path.relative_to(TESTS)}::{node.name}"] = marks
    return found


def test_every_fault_has_a_row() -> None:
    assert list(rows()) == list(range(1, FAULTS + 1))


def test_every_row_has_tests_or_a_reason() -> None:
    for number, (what, tests) in rows().items():
        reason = what.removeprefix("cannot occur: ")
        assert bool(tests) != (reason != what), f"row {number}: tests, or a reason why there are none"
        assert len(reason) > 20, f"row {number} says too little"


def test_rows_and_marks_agree() -> None:
    marks = marked()
    assert marks
    named = {(test, number) for number, (_, tests) in rows().items() for test in tests}
    carried = {(test, number) for test, numbers in marks.items() for number in numbers}
    assert not named - carried, "named in docs/fault-catalogue.md, but no such test carries that mark"
    assert not carried - named, "marked, but not in docs/fault-catalogue.md"
