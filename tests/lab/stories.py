"""Stories: things that happen to virtual nodes, told once and looked at by many tests.

A story is a function of the lab that returns what it saw. Two of them run at a time; a test waits for its own.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab.site import Lab

AT_ONCE = 2


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
    def __init__(self, lab: Lab, logs: Path) -> None:
        self.lab, self.logs = lab, logs
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="story")
        self._told: dict[Story, Future[Any]] = {}
        self.took: dict[str, float] = {}

    def begin(self, story: Story) -> None:
        if story not in self._told:
            self._told[story] = self._pool.submit(self._run, story)

    def _run(self, story: Story) -> Any:
        started = time.monotonic()
        try:
            return story.tell(self.lab, story.name, **dict(story.options))
        except BaseException:
            trace = traceback.format_exc()
            self._collect(story.name)
            where = self.logs / story.name
            raise StoryFailed(f"the story {story.name!r} broke off (logs: {where})\n{trace}") from None
        finally:
            self._switch_off(story.name)
            self.took[story.name] = time.monotonic() - started

    def _mine(self, name: str) -> list[Any]:
        return [node for node in self.lab.nodes if node.name == name or node.name.startswith(f"{name}.")]

    def _collect(self, name: str) -> None:
        for node in self._mine(name):
            node.collect(self.logs / name)

    def _switch_off(self, name: str) -> None:
        for node in self._mine(name):
            node.cut()

    def result(self, story: Story) -> Any:
        self.begin(story)
        return self._told[story].result()

    def stop(self) -> None:
        for node in self.lab.nodes:  # a story that waits for a node notices that it is gone
            node.cut()
        self._pool.shutdown(wait=True, cancel_futures=True)
