"""Rules of the ladder: cheap tests first, no programs or network in unit tests, honest skips, none of them in CI."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.lab import kubernetes

ROOT = Path(__file__).resolve().parent.parent
LADDER = ("unit", "test_floors.py", "test_linters.py", "contract", "crash", "http", "bus", "loop", "nspawn", "node",
          "kube")
IN_CI = bool(os.environ.get("CI"))

# A machine that is busy with virtual nodes is slow now and then, which says nothing about what is tested.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

_BANNED = {"subprocess.Popen", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "socket.connect"}
_ban = {"on": False}


def _audit(event: str, args: tuple[object, ...]) -> None:
    if _ban["on"] and event in _BANNED:
        raise AssertionError(f"a unit test may not do this: {event} {args!r:.200}")


sys.addaudithook(_audit)


def _missing_programs(*programs: str) -> str:
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return " ".join(p for p in programs if shutil.which(p, path=path) is None)


def _lack_root() -> str:
    return "" if os.geteuid() == 0 else "not root"


def _lack_loop() -> str:
    return _lack_root() or ("" if Path("/dev/loop-control").exists() else "no loop devices") \
        or _missing_programs("losetup", "mkfs.ext4", "sfdisk")


def _lack_bus() -> str:
    if importlib.util.find_spec("dbusmock") is None:
        return "no dbusmock"
    return _missing_programs("dbus-daemon")


def _lack_nspawn() -> str:
    return _lack_root() or _missing_programs("systemd-nspawn")


def _lack_node() -> str:
    if not Path("/dev/net/tun").exists():
        return "no /dev/net/tun"
    return _lack_root() or _missing_programs("qemu-system-x86_64", "qemu-img", "dnsmasq", "ip", "mcopy", "ssh")


def _lack_kube() -> str:
    return "" if kubernetes.is_packed() else "no Kubernetes: make kubernetes"


LACKS: dict[str, Callable[[], str]] = {
    "root": _lack_root, "loop": _lack_loop, "bus": _lack_bus, "nspawn": _lack_nspawn, "node": _lack_node,
    "kube": _lack_kube,
}
_found: dict[str, str] = {}


def lack(mark: str) -> str:
    """What this machine misses for tests of that mark, "" when nothing."""
    if mark not in _found:
        _found[mark] = LACKS[mark]()
    return _found[mark]


def _rank(item: pytest.Item) -> int:
    top = item.path.relative_to(ROOT / "tests").parts[0]
    return LADDER.index(top) if top in LADDER else len(LADDER)


@pytest.hookimpl(tryfirst=True)  # type: ignore[untyped-decorator]  # xdist reads the groups in such a hook as well
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Cheap failures first; every test of a directory of the ladder carries its mark."""
    for item in items:
        top = item.path.relative_to(ROOT / "tests").parts[0]
        if top in {"bus", "nspawn", "node", "http", "loop"}:
            item.add_marker(top)
        if any(item.get_closest_marker(mark) for mark in ("bus", "nspawn", "loop", "root", "kube")):
            item.add_marker(pytest.mark.xdist_group("machine"))
    items.sort(key=_rank)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers():
        if mark.name in LACKS and (why := lack(mark.name)):
            text = f"{mark.name} tests cannot run here: {why}"
            if IN_CI:
                pytest.fail(text + " (nothing is skipped in CI)", pytrace=False)
            pytest.skip(text)


@pytest.fixture(autouse=True)
def _no_programs_in_unit_tests(request: pytest.FixtureRequest) -> Iterator[None]:
    _ban["on"] = "unit" in request.node.path.relative_to(ROOT).parts[:2]
    yield
    _ban["on"] = False


@pytest.hookimpl(hookwrapper=True, tryfirst=True)  # type: ignore[untyped-decorator]
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Leave each phase's report on the item: fixtures of the virtual nodes keep their logs when a test failed."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    item.stash.setdefault(FAILED, False)
    if report.failed:
        item.stash[FAILED] = True


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """How many runs and torn states each file of the crash tests had, and what the whole matrices printed."""
    reports = [r for r in terminalreporter.stats.get("passed", ()) if r.nodeid.startswith("tests/crash/")]
    lines = sorted(line for report in reports if "slow" in report.keywords for line in report.capstdout.splitlines())
    sums: dict[tuple[str, str], list[int]] = {}
    for report in reports:
        for number, what in re.findall(r"(\d+) (runs|torn states)\b", report.capstdout):
            sums.setdefault((report.nodeid.split("::")[0], what), []).append(int(number))
    for line in filter(None, lines):
        terminalreporter.write_line(line)
    for (file, what), found in sorted(sums.items()):
        terminalreporter.write_line(f"{file}: {sum(found)} {what} in {len(found)} tests")


FAILED: pytest.StashKey[bool] = pytest.StashKey()
