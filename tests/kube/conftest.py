"""A cluster of virtual nodes, told once: what the tests look at is what happened to it."""

from __future__ import annotations

import os
import shutil
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from _pytest.terminal import TerminalReporter  # pytest 7.2 has it nowhere else

from tests.kube.cluster import Seen, tell
from tests.lab.images import bundle_of, disk_of
from tests.lab.kubernetes import golden
from tests.lab.site import Lab

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = Path(os.environ.get("K8R_BUILD", ROOT / "build"))

FIGURES = pytest.StashKey[list[str]]()


def pytest_terminal_summary(terminalreporter: TerminalReporter, config: pytest.Config) -> None:
    if lines := config.stash.get(FIGURES, []):
        terminalreporter.section("what the cluster's story took")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def seen(request: pytest.FixtureRequest) -> Iterator[Seen]:
    top = golden.top(BUILD)
    wanted = [bundle_of(top, release) / "manifest.toml" for release in golden.RELEASES]
    if missing := [path for path in (*wanted, disk_of(top, 1, golden.LOADER)) if not path.exists()]:
        pytest.fail(f"no images with Kubernetes ({missing[0]}): make cluster", pytrace=False)
    logs, workdir = BUILD / "logs" / "kube", BUILD / "lab" / f"kube-{os.getpid()}"
    shutil.rmtree(logs, ignore_errors=True)
    lab = Lab(top, workdir)
    try:
        lab.start()
        found = tell(lab)
        request.config.stash[FIGURES] = [*found.figures.lines(), *found.nodes.splitlines()]
        yield found
    except Exception:
        trace = traceback.format_exc()
        for node in lab.nodes:
            node.collect(logs / node.name)
        pytest.fail(f"the cluster's story broke off (logs: {logs})\n{trace}", pytrace=False)
    finally:
        lab.stop()
        if not os.environ.get("K8R_LAB_KEEP"):
            shutil.rmtree(workdir, ignore_errors=True)
