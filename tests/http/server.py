"""A web server for bundles that can be told to misbehave. Also a program: python3 -m tests.http.server DIR [--port N].

Behaviours are set per path, or for all; each is used up after `times` requests (0: never).
"""

from __future__ import annotations

import argparse
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PIECE = 128 << 10  # bytes at a time when the rate is limited
PAGE = b"<!DOCTYPE html><html><body>Welcome to the captive portal</body></html>"


@dataclass
class Behaviour:
    """`kind`:
    no-ranges     200 with the whole file instead of 206
    status        answers `status`, with `retry_after` when set
    short         ends after `after` bytes of the body
    stall         sends `after` bytes and then nothing, but holds the connection
    trickle       one byte every `delay` seconds
    page          200 with an HTML page for whatever was asked
    redirect      302 to `location`
    wrong-range   206 with another range than was asked for
    wrong-total   206 that says the file is one byte longer
    gzip          claims Content-Encoding: gzip
    no-length     chunked encoding, no Content-Length
    letters       `raw`, then a letter, or `more`, every `delay` seconds, for ever
    again         `raw` every `delay` seconds, for ever
    """

    kind: str
    path: str = ""
    times: int = 0
    after: int = 0
    status: int = 503
    retry_after: str = ""
    location: str = ""
    delay: float = 0.5
    raw: bytes = b""
    more: bytes = b"a"


@dataclass
class Site:
    """`requests` lists (path, Range header). `etags`: "strong", "weak" or "none". `rate`: bytes a second that each
    connection gets, 0 for as many as it takes. `answered` is called after each request, before its connection is
    closed or used again, with the path and how many requests there were for it."""

    root: Path
    behaviours: list[Behaviour] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    etags: str = "strong"
    rate: float = 0.0
    answered: Callable[[str, int], None] = lambda path, count: None
    served: int = 0
    connections: int = 0
    stop: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def misbehave(self, kind: str, path: str = "", **more: object) -> Behaviour:
        behaviour = Behaviour(kind=kind, path=path, **more)  # type: ignore[arg-type]
        self.behaviours.append(behaviour)
        return behaviour

    def take(self, path: str) -> Behaviour | None:
        with self.lock:
            for behaviour in self.behaviours:
                if behaviour.path in ("", path):
                    if behaviour.times == 1:
                        self.behaviours.remove(behaviour)
                    behaviour.times -= 1
                    return behaviour
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def setup(self) -> None:
        super().setup()
        self.site.connections += 1

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.site.requests.append((self.path, self.headers.get("Range", "")))
        how = self.site.take(self.path) or Behaviour(kind="")
        try:
            self._answer(how)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        self.site.answered(self.path, sum(path == self.path for path, _ in self.site.requests))

    def _answer(self, how: Behaviour) -> None:
        if how.kind in ("letters", "again"):
            return self._for_ever(how)
        if how.kind == "status":
            return self._plain(how.status, b"no", {"Retry-After": how.retry_after} if how.retry_after else {})
        if how.kind == "redirect":
            return self._plain(302, b"", {"Location": how.location})
        if how.kind == "page":
            return self._plain(200, PAGE, {"Content-Type": "text/html"})
        file = self.site.root / self.path.lstrip("/")
        if not file.is_file():
            return self._plain(404, b"not found", {})
        data = file.read_bytes()
        etag = f'"{file.stat().st_mtime_ns}-{len(data)}"'
        headers = {"strong": {"ETag": etag}, "weak": {"ETag": f"W/{etag}"}, "none": {}}[self.site.etags]
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if_range = self.headers.get("If-Range")
        whole = match is None or how.kind == "no-ranges" or (if_range is not None and if_range != etag)
        if whole or match is None:
            return self._body(200, data, headers, how)
        start, end = int(match[1]), min(int(match[2]) + 1, len(data))
        if start >= len(data):
            return self._plain(416, b"", {"Content-Range": f"bytes */{len(data)}"})
        if how.kind == "wrong-range":
            start, end = start + 1, min(end + 1, len(data))
        total = len(data) + (how.kind == "wrong-total")
        self._body(206, data[start:end], {**headers, "Content-Range": f"bytes {start}-{end - 1}/{total}"}, how)

    def _plain(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _body(self, status: int, body: bytes, headers: dict[str, str], how: Behaviour) -> None:
        self.send_response(status)
        if how.kind == "gzip":
            headers["Content-Encoding"] = "gzip"
        headers.update({"Transfer-Encoding": "chunked"} if how.kind == "no-length"
                       else {"Content-Length": str(len(body))})
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if how.kind in ("short", "stall"):
            self.wfile.write(body[:how.after])
            self.site.served += how.after
            self.close_connection = True
            if how.kind == "stall":
                self.site.stop.wait(60)
        elif how.kind == "trickle":
            self._trickle(body, how.delay)
        elif how.kind == "no-length":
            for at in range(0, len(body), 10000):
                piece = body[at:at + 10000]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
        else:
            for at in range(0, len(body), PIECE) if self.site.rate else (0,):
                piece = body[at:at + PIECE] if self.site.rate else body
                self.wfile.write(piece)
                self.site.served += len(piece)
                if self.site.rate and self.site.stop.wait(len(piece) / self.site.rate):
                    return

    def _for_ever(self, how: Behaviour) -> None:
        self.close_connection = True
        self.wfile.write(how.raw)
        while not self.site.stop.wait(how.delay):
            self.wfile.write(how.raw if how.kind == "again" else how.more)

    def _trickle(self, body: bytes, delay: float) -> None:
        for byte in body:
            self.wfile.write(bytes([byte]))
            if self.site.stop.wait(delay):
                self.close_connection = True
                return


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        pass


@contextmanager
def serve(root: Path, *, port: int = 0, host: str = "127.0.0.1", certificate: Path | None = None,
          listening: socket.socket | None = None) -> Iterator[tuple[Site, str]]:
    """(site, prefix). `certificate`: a PEM file with key and certificate, for https. `listening`: a socket to serve
    on, such as one of another network namespace."""
    site = Site(root=root)
    handler = type("Handler", (_Handler,), {"site": site})
    if listening is None:
        server = _Server((host, port), handler)
    else:
        server = _Server(listening.getsockname(), handler, bind_and_activate=False)
        server.socket.close()
        server.socket, host = listening, listening.getsockname()[0]
        server.server_port = listening.getsockname()[1]
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield site, f"http{'s' if certificate else ''}://{host}:{server.server_port}/"
    finally:
        site.stop.set()
        server.shutdown()
        server.server_close()
        thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--misbehave", metavar="KIND", action="append", default=[])
    args = parser.parse_args()
    with serve(args.directory, host=args.host, port=args.port) as (site, prefix):
        for kind in args.misbehave:
            site.misbehave(kind)
        print(prefix, flush=True)
        while True:
            time.sleep(3600)


if __name__ == "__main__":
    main()
