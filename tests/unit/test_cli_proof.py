"""What a person and a program are shown of the proof, and what stands in the way of a reinstall."""

from __future__ import annotations

from pathlib import Path

import pytest

from k8r_agent.errors import BootError, Exit
from k8r_agent.store import condemned
from tests.fakes.prompt import Prompt
from tests.fakes.upgrading import control_plane


@pytest.fixture
def bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prompt:
    """A control plane whose image skips a minor version."""
    node = control_plane(image="1.34.0")
    prompt = Prompt(tmp_path, world=node.world)
    monkeypatch.setattr("k8r_agent.cli.plan.steps", lambda *args: [])
    monkeypatch.setattr(node.world.disks, "own", lambda: (_ for _ in ()).throw(BootError("no disk")), raising=False)
    monkeypatch.setattr("k8r_agent.steps.gates.plan", lambda world: type("P", (), {"refusals": ()})())
    return prompt


def test_a_dry_run_prints_it_line_by_line(bad: Prompt) -> None:
    assert bad.run("reinstall", "--dry-run") == Exit.OK
    assert "Can the node come back into its cluster?" in bad.out
    assert "NO  skew" in bad.out and "[minor-skipped]" in bad.out and "ok  api" in bad.out
    found = bad.json("reinstall", "--dry-run")
    assert {line["name"]: line["ok"] for line in found["proof"]}["skew"] is False


def test_a_line_that_fails_refuses_before_anything_is_asked(bad: Prompt) -> None:
    assert bad.run("reinstall", answer="yes\n") == Exit.FAILED
    assert "might not come back" in bad.err and "skew" in bad.err and "Lost" not in bad.err


def test_force_goes_on_and_is_handed_to_the_task(bad: Prompt) -> None:
    bad.run("reinstall", "--force", "--yes", "--no-wait")
    assert [dict(request.args) for request in bad.node.queue.pending()] == [{"force": "yes"}]


def test_status_names_what_is_in_quarantine(bad: Prompt) -> None:
    condemned.add(bad.node.files, condemned.Condemned(release=2, why="it did not work", time=1.0))
    assert bad.run("status") == Exit.OK
    assert "release 2 is in quarantine: it did not work" in bad.out
