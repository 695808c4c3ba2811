"""Virtual nodes: stories told two at a time, logs of what failed under build/logs."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.images import DISKS, bundle_of, disk_of
from tests.lab.site import RELEASES
from tests.lab.stories import Stories, Story

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = Path(os.environ.get("K8R_BUILD", ROOT / "build"))


def _missing() -> list[Path]:
    wanted = [bundle_of(BUILD, release) / "manifest.toml" for release in RELEASES]
    return [path for path in [*wanted, *(disk_of(BUILD, *disk) for disk in DISKS)] if not path.exists()]


def _story(item: pytest.Item) -> Story | None:
    mark = item.get_closest_marker("story")
    if mark is None:
        return None
    options = {name: value for name, value in mark.kwargs.items() if name != "tell"}
    return Story(mark.kwargs["tell"], tuple(sorted(options.items())))


def _in_turns(stories: Iterable[Story]) -> list[Story]:
    """One of each boot loader after the other: two that need the same node with a past, which the first of them makes,
    would leave one of two processors with nothing to do."""
    told, turns = Counter[object](), list[tuple[int, Story]]()
    for story in stories:
        loader = dict(story.options).get("loader")
        turns.append((told[loader], story))
        told[loader] += 1
    return [story for _, story in sorted(turns, key=lambda turn: turn[0])]


@pytest.fixture(scope="session")
def stories(request: pytest.FixtureRequest) -> Iterator[Stories]:
    if missing := _missing():
        text = f"no images ({missing[0]} and {len(missing) - 1} more): make images"
        pytest.fail(text, pytrace=False) if os.environ.get("CI") else pytest.skip(text)
    logs, workdir = BUILD / "logs", BUILD / "lab" / str(os.getpid())
    shutil.rmtree(logs, ignore_errors=True)
    told = Stories(BUILD, workdir, logs, keep=bool(os.environ.get("K8R_LAB_KEEP")))
    try:
        for story in _in_turns(dict.fromkeys(filter(None, map(_story, request.session.items)))):
            told.begin(story)
        yield told
    finally:
        told.stop()
        reporter = request.config.pluginmanager.get_plugin("terminalreporter")
        if reporter:
            took = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in told.took.items())
            reporter.write_line(f"\nstories: {took}")


@pytest.fixture
def told(stories: Stories, request: pytest.FixtureRequest) -> Any:
    """What the story of this test's `story` mark saw."""
    story = _story(request.node)
    assert story is not None, "a test that asks for `told` carries a `story` mark"
    return stories.result(story)
