"""What one HTTP answer means for a ranged read."""

from __future__ import annotations

import contextlib
import email.utils
import re
import time
from dataclasses import dataclass
from typing import Any

from k8r_agent.errors import FetchError

_DIGITS = 18  # of no size are there more; Python refuses to read some thousands
_CONTENT_RANGE = re.compile(rf"bytes\s+(\d{{1,{_DIGITS}}})-(\d{{1,{_DIGITS}}})/(\d{{1,{_DIGITS}}}|\*)", re.ASCII)
_UNREAD = 1 << 20  # bytes; a header line of a chunk is at most 64 KiB long
_PASSING = (408, 425, 429, 500, 502, 503, 504)  # worth another attempt


class Retry(Exception):
    """May pass. `after` are the seconds that the server asked for."""

    def __init__(self, what: str, *, after: float | None = None, hint: str = "") -> None:
        super().__init__(what)
        self.after, self.hint = after, hint


@dataclass(frozen=True)
class Range:
    """Bytes [start, end) of a file of `size` bytes; None where it is not known."""

    start: int
    end: int | None
    size: int | None


class Paced:
    """A socket that is not waited for for ever. http.client reads lines (of a chunk's length, of what follows the last
    one) until they end: a server that sends a letter now and then never runs into the timeout of one read, and one
    that sends lines without end is never slow."""

    def __init__(self, socket: Any, seconds: float, least: int) -> None:
        self._socket, self._seconds, self._least = socket, seconds, least
        self._since, self._arrived, self._unread = time.monotonic(), 0, 0

    def delivered(self) -> None:
        """The caller got bytes of the body."""
        self._unread = 0

    def recv_into(self, buffer: Any, *more: Any) -> int:
        count: int = self._socket.recv_into(buffer, *more)
        now = time.monotonic()
        self._arrived += count
        self._unread += count
        if self._unread > _UNREAD:
            raise TimeoutError(f"it sends {self._unread} bytes, none of which is of the file")
        if now - self._since > self._seconds:
            if self._arrived < self._least:
                raise TimeoutError(f"it stalls: {self._arrived} bytes in {now - self._since:.0f} s")
            self._since, self._arrived = now, 0
        return count

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


@dataclass(frozen=True, kw_only=True)
class Answer:
    response: Any
    url: str

    @classmethod
    def of(cls, response: Any, url: str) -> Answer:
        return cls(response=response, url=url)

    @property
    def status(self) -> int:
        return int(self.response.status_code)

    def header(self, name: str) -> str:
        return str(self.response.headers.get(name, "")).strip()

    @property
    def length(self) -> int | None:
        return _number(self.header("Content-Length"))

    def pace(self, seconds: float, least: int) -> Paced:
        """From now on reading raises TimeoutError when fewer than `least` bytes arrive in `seconds`, of whatever, or
        many of which none is `delivered()`."""
        stream = self.response.raw._original_response.fp
        paced = Paced(stream and stream.raw._sock, seconds, least)
        if stream is not None:  # None: there is no body
            stream.raw._sock = paced
        return paced

    def read1(self, amount: int) -> bytes:
        """What one read of the socket gives. urllib3's own read() waits until all of `amount` is there, so that a
        trickle would never be noticed."""
        data: bytes = self.response.raw._original_response.read1(amount)
        return data

    def finish(self) -> None:
        """Give the connection back when the body was read to its end, else close it."""
        body = self.response.raw._original_response
        if body is not None and body.length == 0 and not body.isclosed():
            body.read()  # marks the end; read1() alone does not
        if body is not None and body.isclosed():
            self.response.raw.release_conn()
        self.response.close()


def judge(answer: Answer, wanted: Range) -> tuple[int, int]:
    """(first byte, end) of the body. Raises Retry or FetchError when it cannot be what was asked for."""
    if answer.status in _PASSING:
        raise Retry(f"the server says {answer.status}", after=retry_after(answer.header("Retry-After")))
    if answer.status not in (200, 206):
        raise _refusal(answer, wanted)
    if answer.header("Content-Encoding") not in ("", "identity"):
        raise FetchError(f"{answer.url} comes with encoding {answer.header('Content-Encoding')!r}",
                         why="it was asked for as it is", hint="switch off compression for this path on the server")
    if answer.status == 206:
        return _part(answer, wanted)
    if wanted.size is None:
        return 0, answer.length or 0
    if answer.length is not None and answer.length != wanted.size:
        raise _size(answer, answer.length, wanted.size)
    return 0, wanted.size


def _part(answer: Answer, wanted: Range) -> tuple[int, int]:
    match = _CONTENT_RANGE.fullmatch(answer.header("Content-Range"))
    if match is None or wanted.end is None:
        raise FetchError(f"{answer.url}: the server sends a part that was not asked for",
                         why=f"Content-Range: {answer.header('Content-Range')!r}")
    start, end = int(match[1]), int(match[2]) + 1
    if match[3] != "*" and int(match[3]) != wanted.size:
        raise _size(answer, int(match[3]), wanted.size or 0)
    if start != wanted.start or not start < end <= wanted.end:
        raise FetchError(f"{answer.url}: the server sends bytes {start} to {end}",
                         why=f"{wanted.start} to {wanted.end} were asked for")
    if answer.length is not None and answer.length != end - start:
        raise Retry(f"the answer says {answer.length} bytes for a range of {end - start}")
    return start, end


def _refusal(answer: Answer, wanted: Range) -> FetchError:
    status = answer.status
    if status == 416:
        has = _number(answer.header("Content-Range").rpartition("/")[2])
        if has is not None and has != wanted.size:
            return _size(answer, has, wanted.size or 0)
        return FetchError(f"{answer.url}: the server refuses bytes {wanted.start} to {wanted.end}", why="416")
    if status in (404, 410):
        return FetchError(f"{answer.url} does not exist", why=f"the server says {status}",
                          hint="is the address the directory that holds manifest.toml?")
    if status in (401, 403, 407):
        return FetchError(f"{answer.url} is not open to this node", why=f"the server says {status}")
    return FetchError(f"{answer.url} cannot be fetched", why=f"the server says {status}")


def _size(answer: Answer, has: int, expected: int) -> FetchError:
    page = "html" in answer.header("Content-Type")
    return FetchError(f"{answer.url} has {has} bytes", why=f"the manifest says {expected}",
                      hint="this is a web page: does the server answer 200 for files that it does not have?" if page
                      else "the bundle on the server is incomplete, or is being replaced just now")


def _number(text: str) -> int | None:
    """What a header says in digits; None for anything else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _DIGITS else None


def retry_after(value: str) -> float | None:
    """Seconds, from a number or a date; None when it is neither."""
    if (seconds := _number(value)) is not None:
        return float(seconds)
    with contextlib.suppress(ValueError, TypeError, IndexError, OverflowError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return None
