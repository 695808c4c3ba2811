"""A cluster of virtual nodes, told once: what the tests look at is what happened to it."""

from __future__ import annotations

import os
import shutil
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from _pytest.terminal import TerminalReporter  # pytest 7.2 has it nowhere else

from tests.kube.cluster import Seen, Story, looking, say
from tests.lab.images import bundle_of, disk_of
from tests.lab.kubernetes import golden
from tests.lab.members import ADMIN
from tests.lab.site import Lab

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = Path(os.environ.get("K8R_BUILD", ROOT / "build"))

KUBERNETES = f"{ADMIN} get nodes,pods -A -o wide; tail -n 40 /var/log/containers/*.log; journalctl -n 200 -u kubelet"
FIGURES = pytest.StashKey[list[str]]()


def pytest_terminal_summary(terminalreporter: TerminalReporter, config: pytest.Config) -> None:
    if lines := config.stash.get(FIGURES, []):
        terminalreporter.section("what the cluster's story took")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def seen(request: pytest.FixtureRequest) -> Iterator[Seen]:
    """Told aloud: it takes half an hour and more."""
    top = golden.top(BUILD)
    wanted = [bundle_of(top, release) / "manifest.toml" for release in golden.RELEASES]
    if missing := [path for path in (*wanted, disk_of(top, 1, golden.LOADER)) if not path.exists()]:
        pytest.fail(f"no images with Kubernetes ({missing[0]}): make e2e", pytrace=False)
    workdir = BUILD / "lab" / f"kube-{os.getpid()}"
    lab = Lab(top, workdir)
    try:
        with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            found = told(lab)
        with looking("figures"):
            request.config.stash[FIGURES] = [*found.figures.lines(), *found.nodes.splitlines()]
        yield found
    finally:
        lab.stop()
        if not os.environ.get("K8R_LAB_KEEP"):
            shutil.rmtree(workdir, ignore_errors=True)


def told(lab: Lab) -> Seen:
    """What was seen, also by a story that broke off. The nodes' logs are kept, since a test may fail later."""
    logs = BUILD / "logs" / "kube"
    shutil.rmtree(logs, ignore_errors=True)
    story = Story(lab.start())
    try:
        story.tell()
    except Exception as error:
        say(f"the story breaks off: {error}")
        story.seen.broke_off = traceback.format_exc()
    for node in lab.nodes:
        with looking(f"logs of {node.name}"):
            (logs / node.name).mkdir(parents=True)
            said = node.try_ssh(KUBERNETES, timeout=300)
            (logs / node.name / "kubernetes.txt").write_text(said.out + said.err)
            node.collect(logs / node.name)
    say(f"logs: {logs}")
    return story.seen
