"""ruff, mypy --strict and shellcheck are tests; so is that the tree says nothing about the machine it grew on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv" / "bin"
SHELL = re.compile(rb"#! ?/bin/(ba|da|)sh|#! ?/usr/bin/env (ba|)sh")
PUBLIC = {"deb.debian.org", "archive.ubuntu.com", "security.ubuntu.com", "ports.ubuntu.com", "pypi.org", "github.com"}


def tool(name: str) -> str:
    path = shutil.which(name, path=f"{VENV}:{os.environ.get('PATH', '')}")
    if path is None and os.environ.get("CI"):
        pytest.fail(f"{name} is not installed")
    if path is None:
        pytest.skip(f"{name} is not installed: make venv")
    return path


def check(*argv: str) -> None:
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{Path(argv[0]).name}:\n{done.stdout[-8000:]}{done.stderr[-2000:]}"


def tracked() -> list[Path]:
    """Files of the tree: what git knows or would add, else everything that is not build output."""
    if (ROOT / ".git").exists() and shutil.which("git"):
        listed = subprocess.run(
            ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, capture_output=True, check=True).stdout
        paths = [ROOT / name for name in listed.decode().split("\0") if name]
    else:
        skip = {"build", ".venv", ".git"}
        paths = [p for p in ROOT.rglob("*") if p.relative_to(ROOT).parts[0] not in skip and "_cache" not in str(p)]
    return [p for p in paths if p.is_file() and not p.is_symlink()]


def is_shell(path: Path) -> bool:
    with path.open("rb") as file:
        return SHELL.match(file.readline(80)) is not None


def test_ruff() -> None:
    check(tool("ruff"), "check", "--quiet", ".")


def test_mypy_strict() -> None:
    check(tool("mypy"), "--strict")


def test_shellcheck() -> None:
    scripts = [str(p) for p in tracked() if is_shell(p)]
    assert scripts
    check(tool("shellcheck"), "-x", "-s", "dash", *[s for s in scripts if b"bash" not in Path(s).read_bytes()[:40]])
    bash = [s for s in scripts if b"bash" in Path(s).read_bytes()[:40]]
    if bash:
        check(tool("shellcheck"), "-x", "-s", "bash", *bash)


def workplace() -> set[str]:
    """Names that would only make sense on this machine: where the checkout is, where packages come from here."""
    parent = ROOT.parent
    found = {f"{parent}/"} if len(parent.parts) > 1 and len(str(parent)) > 4 else set()
    config = ""
    for path in (Path("/etc/pip.conf"), Path.home() / ".config/pip/pip.conf", Path.home() / ".pip/pip.conf"):
        config += path.read_text() if path.exists() else ""
    config += " ".join(v for k, v in os.environ.items() if k.startswith("PIP_") or k.lower().endswith("_proxy"))
    for word in re.split(r"[\s=,]+", config):
        url = urlsplit(word)
        if url.scheme == "file" or (word.startswith("/opt/") and not url.scheme):
            found.add(url.path.rstrip("/"))
        elif url.hostname and url.hostname not in PUBLIC | {"localhost", "127.0.0.1"}:
            found.add(url.hostname)
    return found


def test_nothing_of_this_machine() -> None:
    names = workplace()
    for path in tracked():
        text = path.read_bytes()
        for name in names:
            assert name.encode() not in text, f"{path.relative_to(ROOT)} mentions {name}"
