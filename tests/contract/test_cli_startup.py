"""How fast the prompt is: processor time against a bare interpreter, and what is never imported for a glance."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
HEAVY = {"requests", "pydbus", "gi", "psutil", "pyudev", "sh", "subprocess", "ctypes", "urllib3", "zstandard", "lzma"}
WRAPPER = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from k8r_agent.__main__ import main; sys.exit(main())"


def processor_time(*argv: str, runs: int = 15) -> float:
    """Seconds, the best of some runs: what else the machine does must not count."""
    best = float("inf")
    null = os.open(os.devnull, os.O_RDWR)
    try:
        for _ in range(runs):
            child = subprocess.Popen(argv, stdin=null, stdout=null, stderr=null)
            usage = os.wait4(child.pid, 0)[2]
            child.returncode = 0
            best = min(best, usage.ru_utime + usage.ru_stime)
    finally:
        os.close(null)
    return best


@pytest.mark.parametrize(("argv", "limit"), [(("--help",), 4.0), (("--version",), 4.0), (("status",), 6.0)])
def test_start_up_against_a_bare_interpreter(argv: tuple[str, ...], limit: float) -> None:
    for _ in range(3):
        bare = processor_time(sys.executable, "-I", "-c", "pass")
        ratio = processor_time(sys.executable, "-I", "-c", WRAPPER, *argv) / bare
        if ratio <= limit:
            return
    pytest.fail(f"{' '.join(argv)} takes {ratio:.1f} times a bare interpreter, {limit} are allowed")


@pytest.mark.parametrize("argv", [("--help",), ("--version",), ("status",), ("status", "--json"), ("events",),
                                  ("config", "check"), ("task", "list")])
def test_a_glance_imports_no_heavy_library(argv: tuple[str, ...]) -> None:
    found = subprocess.run([sys.executable, "-X", "importtime", "-I", "-c", WRAPPER, *argv], capture_output=True,
                           text=True, timeout=60)
    modules = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in found.stderr.splitlines() if "|" in line}
    assert not modules & HEAVY
    assert ("argparse" in modules) is (argv[0] in ("events", "config"))
