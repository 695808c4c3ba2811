"""The house rules that a parser can check: floors, heavy libraries, sizes, where text may be printed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "k8r_agent"
# A module may import from lower floors only; rooms of one floor do not know each other.
FLOORS = (
    ("errors",), ("model",), ("config",), ("ports",), ("effects",), ("boot", "store", "image", "cluster"),
    ("steps",), ("engine", "world"), ("runner",), ("cli", "build"), ("__main__",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
HEAVY = {"requests", "pydbus", "gi", "psutil", "pyudev", "sh", "subprocess", "ctypes"}
MAX_FILE, MAX_FUNCTION = 400, 40
MODULES = sorted((ROOT / PACKAGE).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / PACKAGE).with_suffix("").parts[0]


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute here"
            module = node.module or ""
            yield node.lineno, module
            if module == PACKAGE:
                yield from ((node.lineno, f"{PACKAGE}.{alias.name}") for alias in node.names)


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_down_only(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        return
    assert room in FLOOR, f"{room}: on which floor does it live?"
    for line, module in imports(ast.parse(path.read_text())):
        parts = module.split(".")
        if parts[0] != PACKAGE or len(parts) < 2 or parts[1] == room or parts[1].startswith("__version"):
            continue
        target = parts[1]
        assert FLOOR.get(target, 99) < FLOOR[room], f"{name_of(path)}:{line}: {room} may not import {module}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_heavy_libraries_stay_in_effects(path: Path) -> None:
    if room_of(path) == "effects":
        return
    for line, module in imports(ast.parse(path.read_text())):
        assert module.split(".")[0] not in HEAVY, f"{name_of(path)}:{line}: {module} belongs into effects/"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_the_prompt_prints_and_exits(path: Path) -> None:
    if room_of(path) in {"cli", "__main__"} or path.name in {"__main__.py", "cli.py"}:
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"print", "sys.exit", "exit", "quit"}, f"{name_of(path)}:{node.lineno}: {called}()"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_shell(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            called, where = ast.unparse(node.func), f"{name_of(path)}:{node.lineno}"
            assert called not in {"os.system", "os.popen", "subprocess.getoutput"}, f"{where}: no shell"
            if called.startswith("subprocess.") or called.split(".")[-1] == "Popen":
                assert not [k for k in node.keywords if k.arg == "shell"], f"{where}: no shell"


@pytest.mark.parametrize("path", MODULES + TESTS, ids=name_of)
def test_sizes(path: Path) -> None:
    text = path.read_text()
    lines = text.count("\n")
    assert lines <= MAX_FILE, f"{name_of(path)} has {lines} lines, split it"
    for function in functions(ast.parse(text)):
        length = (function.end_lineno or 0) - function.lineno + 1
        assert length <= MAX_FUNCTION, f"{name_of(path)}:{function.lineno}: {function.name} has {length} lines"


def test_no_drawers_for_odds_and_ends() -> None:
    assert not [name_of(p) for p in MODULES if p.stem in {"utils", "util", "helpers", "common", "misc"}]
