"""Files of a bundle over HTTP(S), in ranges, from servers that may misbehave.

requests leaves the body to its caller: a short one is no error (urllib3 1.26), none is retried, and a server that
trickles one byte at a time never times out. Lengths, ranges, restarts and patience are therefore minded here. What the
bytes hash to is the reader's business; nothing a server says is trusted above the size in the signed manifest.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

from k8r_agent.effects.httpanswer import Answer, Range, Retry, judge
from k8r_agent.errors import ContentChanged, FetchError

_PIECE = 256 << 10  # bytes at most from one read of the socket
_DRAIN = 1 << 20  # an unread rest up to this is read away to keep the connection
_WINDOW = 64 << 20
_PROGRESS = 64 << 10  # bytes that make an attempt one that was worth it
_REDIRECTS = (301, 302, 303, 307, 308)


@dataclass(frozen=True, kw_only=True)
class Patience:
    """Seconds, unless said otherwise. A transfer stalls when less than `stall_bytes` arrive in `stall`."""

    connect: float = 10.0
    read: float = 30.0
    header: float = 60.0  # until an answer's header is complete
    stall: float = 60.0
    stall_bytes: int = 64 << 10
    attempts: int = 8  # in a row without progress
    backoff: float = 1.0  # doubles with each, up to:
    backoff_max: float = 60.0
    retry_after_max: float = 120.0
    small: float = 120.0  # for a small file as a whole
    slowest: int = 32 << 10  # bytes/s: size divided by this is the deadline of a large file (one hour at least)
    redirects: int = 5


class Http:
    """One server prefix. Proxies from the environment are honoured as requests does. Not for several threads."""

    def __init__(self, prefix: str, *, ca_file: str = "", patience: Patience | None = None,
                 sleep: Callable[[float], None] = time.sleep) -> None:
        import requests  # 53 ms and 14 MiB that `status` must not pay

        self.prefix = prefix.rstrip("/") + "/"
        self.patience = patience or Patience()
        self._sleep = sleep
        self._requests = requests
        self._session = self._new_session()
        self._verify: str | bool = ca_file or True
        self.transferred = 0

    def _new_session(self) -> Any:
        session = self._requests.Session()
        session.headers.update({"Accept-Encoding": "identity", "User-Agent": "k8r-agent"})
        return session

    def close(self) -> None:
        self._session.close()

    def small(self, name: str, limit: int, *, optional: bool = False) -> bytes | None:
        """A whole file of at most `limit` bytes. With `optional`, None when the server has none (404, 410).
        Raises FetchError."""
        deadline = time.monotonic() + self.patience.small
        attempt = 0
        while True:
            try:
                with self.request(name, {}) as answer:
                    if optional and answer.status in (404, 410):
                        return None
                    judge(answer, Range(0, None, None))
                    data = b"".join(self.pieces(answer, limit + 1, deadline))
                if len(data) > limit:
                    raise FetchError(f"{self.prefix}{name} is too large", why=f"more than {limit} bytes")
                if answer.length is not None and len(data) != answer.length:
                    raise Retry(f"{len(data)} of {answer.length} bytes came")
                return data
            except Retry as retry:
                attempt += 1
                self.wait(name, retry, attempt, deadline)

    def size(self, name: str) -> int | None:
        """What the server says, for files without a manifest; None when it has no such file. Raises FetchError."""
        deadline = time.monotonic() + self.patience.small
        attempt = 0
        while True:
            try:
                with self.request(name, {}) as answer:
                    if answer.status in (404, 410):
                        return None
                    judge(answer, Range(0, None, None))
                    if answer.length is None:
                        raise FetchError(f"{answer.url}: the server does not say how large it is")
                    return answer.length
            except Retry as retry:
                attempt += 1
                self.wait(name, retry, attempt, deadline)

    def open(self, name: str, size: int) -> HttpFile:
        return HttpFile(self, name, size)

    def wait(self, name: str, retry: Retry, attempt: int, deadline: float) -> None:
        """Back off before the next attempt, or raise FetchError when it was the last."""
        patience = self.patience
        pause = min(patience.backoff * 2 ** (attempt - 1), patience.backoff_max) * random.uniform(0.75, 1.25)
        if retry.after is not None:
            pause = min(retry.after, patience.retry_after_max)
        if attempt >= patience.attempts or time.monotonic() + pause > deadline:
            raise FetchError(f"{self.prefix}{name} cannot be fetched", why=f"{retry} ({attempt} attempts)",
                             hint=retry.hint) from retry
        self._sleep(pause)

    @contextlib.contextmanager
    def request(self, name: str, headers: Mapping[str, str]) -> Iterator[Answer]:
        """One GET, redirects followed. Raises Retry for what may pass, FetchError for what will not."""
        url = urljoin(self.prefix, name)
        for _ in range(self.patience.redirects + 1):
            response = self._get_in_time(url, headers)
            if response.status_code not in _REDIRECTS:
                break
            target = urljoin(url, response.headers.get("Location", ""))
            response.close()
            if urlsplit(target).scheme not in ("http", "https") or not urlsplit(target).hostname:
                raise FetchError(f"{url} redirects to {target!r}", why="not an http(s) address")
            if urlsplit(url).scheme == "https" and urlsplit(target).scheme == "http":
                raise FetchError(f"{url} redirects to {target}", why="from https to http")
            url = target
        else:
            raise FetchError(f"{self.prefix}{name}: more than {self.patience.redirects} redirects",
                             why=f"the last one to {url}")
        try:
            yield Answer.of(response, url)
        finally:
            Answer.of(response, url).finish()

    def pieces(self, answer: Answer, limit: int, deadline: float) -> Iterator[bytes]:
        """At most `limit` bytes of the body as they come. Raises Retry when the transfer stalls or breaks."""
        since, arrived = time.monotonic(), 0
        paced = answer.pace(self.patience.stall, self.patience.stall_bytes)
        while limit > 0:
            try:
                data = answer.read1(min(_PIECE, limit))
            except Exception as error:  # http.client, ssl, socket and urllib3 each have their own kinds
                raise Retry(f"the transfer broke off: {error or type(error).__name__}") from error
            if not data:
                return
            paced.delivered()
            limit -= len(data)
            arrived += len(data)
            self.transferred += len(data)
            now = time.monotonic()
            if now > deadline:
                raise Retry("the overall deadline has passed")
            if now - since > self.patience.stall:
                if arrived < self.patience.stall_bytes:
                    raise Retry(f"the transfer stalls: {arrived} bytes in {now - since:.0f} s")
                since, arrived = now, 0
            yield data

    def _get_in_time(self, url: str, headers: Mapping[str, str]) -> Any:
        """A header may come letter by letter, or be announced again and again (100 Continue): each read is in time,
        and http.client reads for ever. A thread that is stuck there is left behind, with its connection."""
        ended: list[Any] = []

        def work() -> None:
            try:
                ended.append(self._get(url, headers))
            except BaseException as error:  # for the thread that waits
                ended.append(error)

        thread = threading.Thread(target=work, name="http", daemon=True)
        thread.start()
        thread.join(self.patience.header)
        if not ended:
            self._session = self._new_session()
            raise Retry(f"the answer has no end of its header after {self.patience.header:g} s")
        if isinstance(ended[0], BaseException):
            raise ended[0]
        return ended[0]

    def _get(self, url: str, headers: Mapping[str, str]) -> Any:
        errors = self._requests.exceptions
        try:
            return self._session.get(url, headers=dict(headers), stream=True, allow_redirects=False,
                                     verify=self._verify, timeout=(self.patience.connect, self.patience.read))
        except errors.SSLError as error:
            raise _tls(url, str(error)) from error
        except (errors.InvalidURL, errors.InvalidSchema, errors.MissingSchema, errors.InvalidProxyURL) as error:
            raise FetchError(f"{url} is not an address that can be fetched", why=str(error)) from error
        except errors.ConnectTimeout as error:
            raise Retry("no connection in time", hint="is the network up, the address right?") from error
        except errors.Timeout as error:
            raise Retry("no answer in time") from error
        except errors.RequestException as error:
            raise Retry(_reason(error), hint="is the network up, the address right?") from error
        except (OSError, ValueError) as error:  # a CA file that does not exist, a host name that cannot be one
            raise FetchError(f"{url} cannot be fetched", why=str(error)) from error


def _tls(url: str, text: str) -> FetchError:
    host = urlsplit(url).hostname
    if "not yet valid" in text or "expired" in text:
        now = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
        return FetchError(f"the certificate of {host} is not valid now", why=text[-200:],
                          hint=f"this node's clock says {now}: if that is wrong, set it; an http:// source is as "
                               "safe, because the manifest is signed")
    return FetchError(f"{host} cannot prove who it is", why=text[-300:],
                      hint="set update.ca_file for a private certificate authority; an http:// source is as safe, "
                           "because the manifest is signed")


def _reason(error: BaseException) -> str:
    """The innermost cause: requests wraps `Connection refused` four times."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return str(error)[-200:] or type(error).__name__


class HttpFile:
    """One file, read in ascending ranges by one thread. A sequential reader gets one long request, one that skips
    gets a request per range: each adjoining read doubles what is asked for ahead."""

    def __init__(self, http: Http, name: str, size: int) -> None:
        self._http, self._name, self.size = http, name, size
        self._deadline = time.monotonic() + max(3600.0, size / http.patience.slowest)
        self._stack = contextlib.ExitStack()
        self._body: Iterator[bytes] | None = None
        self._at = self._end = 0  # of the open body: next byte, and where it stops
        self._left = b""
        self._window = 0
        self._known: tuple[str, str] | None = None

    def close(self) -> None:
        self._stack.close()
        self._body, self._left = None, b""

    def forget(self) -> None:
        """Start anew, also with a file that has changed meanwhile."""
        self.close()
        self._known = None

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes. Raises FetchError; ContentChanged when the server has another file now."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise FetchError(f"{self._name}: nothing at {offset} of {self.size} bytes")
        found = bytearray()
        attempt = 0
        while len(found) < length:
            at = offset + len(found)
            try:
                self._seek(at, length - len(found))
                before = len(found)
                for piece in self._take(length - len(found)):
                    found += piece
                    attempt = 0 if len(found) - before >= _PROGRESS else attempt
            except Retry as retry:
                self.close()
                attempt += 1
                self._http.wait(self._name, retry, attempt, self._deadline)
        return bytes(found)

    def _take(self, length: int) -> Iterator[bytes]:
        assert self._body is not None
        while length:
            if not self._left:
                self._left = next(self._body, b"")
                if not self._left:
                    raise Retry(f"the answer ended at {self._at}, {self._end} was promised")
            piece, self._left = self._left[:length], self._left[length:]
            self._at += len(piece)
            length -= len(piece)
            yield piece

    def _seek(self, at: int, length: int) -> None:
        if self._body is not None and self._at == at and self._end >= at + length:
            return
        adjoins = self._at == at or self._body is None
        ahead = at - self._at
        if self._body is not None and 0 <= ahead <= _DRAIN and self._end >= at + length:
            for _ in self._take(ahead):
                pass
            return
        self._window = min(max(self._window * 2, length), _WINDOW) if adjoins else length
        self.close()
        self._request(at, min(max(self._window, length), self.size - at))

    def _request(self, at: int, length: int) -> None:
        wanted = Range(at, at + length, self.size)
        headers = {"Range": f"bytes={at}-{at + length - 1}"}
        etag = self._known[0] if self._known else ""
        if etag.startswith('"'):  # a weak one must not be used here (RFC 9110, 13.1.5)
            headers["If-Range"] = etag
        answer = self._stack.enter_context(self._http.request(self._name, headers))
        begin, self._end = judge(answer, wanted)
        mark = (answer.header("ETag"), answer.header("Last-Modified"))
        if self._known is not None and mark != self._known:
            self.close()
            raise ContentChanged(f"{answer.url} changed while it was read",
                                 why=f"was {' '.join(self._known)}, is {' '.join(mark)}")
        self._known = mark
        self._body = self._http.pieces(answer, self._end - begin, self._deadline)
        self._at, self._left = begin, b""
        for _ in self._take(at - begin):  # a server without ranges starts at 0 each time
            pass
