"""Work done ahead of its use by a few threads. Hashing, unpacking, reading and writing all release the GIL."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

BEAT = 2.0  # seconds between signs of life while nothing moves

T = TypeVar("T")


def in_order(jobs: Iterator[Callable[[], T]], *, workers: int, depth: int,
             beat: Callable[[], None]) -> Generator[T, None, None]:
    """Results in the order of the jobs, at most `depth` of them made ahead. `beat` is called while one is awaited.

    When the caller stops (or `beat` raises), what runs is waited for and the rest never starts.
    """
    pool = ThreadPoolExecutor(workers)
    waiting: deque[Future[T]] = deque()
    try:
        while True:
            while len(waiting) < depth and (job := next(jobs, None)) is not None:
                waiting.append(pool.submit(job))
            if not waiting:
                return
            first = waiting.popleft()
            while not wait([first], timeout=BEAT).done:
                beat()
            result = first.result()
            del first  # a chunk is megabytes: nothing may hold it while the next is made
            yield result
            del result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
