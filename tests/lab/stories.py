"""Stories: things that happen to virtual nodes, told once and looked at by many tests.

A story is a function of a lab of its own that returns what it saw. Two of them run at a time, each on one of two
cores (K8R_AT_ONCE=n: n of them); a test waits for its own.
"""

from __future__ import annotations

import os
import shutil
import time
import traceback
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab.site import Lab

AT_ONCE = int(os.environ.get("K8R_AT_ONCE", "2"))


@dataclass(frozen=True)
class Story:
    tell: Callable[..., Any]
    options: tuple[tuple[str, Hashable], ...] = ()

    @property
    def name(self) -> str:
        return "-".join([self.tell.__name__.replace("_", "-"), *(str(value) for _, value in self.options)])


class StoryFailed(AssertionError):
    """Carries the whole trace: the story ran in another thread."""


class Stories:
    """`workdir` holds one directory for each story while it is told; `logs` what a story that broke off leaves."""

    def __init__(self, build: Path, workdir: Path, logs: Path, *, keep: bool = False) -> None:
        self.build, self.workdir, self.logs, self._keep = build, workdir, logs, keep
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="story")
        self._told: dict[Story, Future[Any]] = {}
        self._labs: list[Lab] = []
        self.took: dict[str, float] = {}

    def begin(self, story: Story) -> None:
        if story not in self._told:
            self._told[story] = self._pool.submit(self._run, story)

    def _run(self, story: Story) -> Any:
        started = time.monotonic()
        lab = Lab(self.build, self.workdir / story.name)
        self._labs.append(lab)
        try:
            return story.tell(lab.start(), story.name, **dict(story.options))
        except BaseException:
            trace = traceback.format_exc()
            where = self.logs / story.name
            for node in lab.nodes:
                node.collect(where)
            raise StoryFailed(f"the story {story.name!r} broke off (logs: {where})\n{trace}") from None
        finally:
            lab.stop()
            self.took[story.name] = time.monotonic() - started
            if not self._keep:
                shutil.rmtree(lab.workdir, ignore_errors=True)

    def result(self, story: Story) -> Any:
        self.begin(story)
        return self._told[story].result()

    def stop(self) -> None:
        for lab in self._labs:  # a story that waits for a node notices that it is gone
            for node in lab.nodes:
                node.cut()
        self._pool.shutdown(wait=True, cancel_futures=True)
