"""A web server inside the lab's network: byte ranges, and a rate to make a download last."""

from __future__ import annotations

import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.lab.network import Network

PIECE = 256 << 10


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = (self.server.root / self.path.lstrip("/")).resolve()
        self.server.requests.append(f"{self.command} {self.path} {self.headers.get('Range', '')}".rstrip())
        if not path.is_relative_to(self.server.root) or not path.is_file():
            self.send_error(404)
            return
        size, first = path.stat().st_size, 0
        last = size - 1
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(wanted[1]), min(last, int(wanted[2] or last))
            if first >= size:
                self.send_error(416)
                return
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{path.stat().st_mtime_ns:x}-{size:x}"')
        self.end_headers()
        if body:
            self._send(path, first, last - first + 1)

    def _send(self, path: Path, first: int, left: int) -> None:
        with path.open("rb") as file:
            file.seek(first)
            while left and (data := file.read(min(PIECE, left))):
                try:
                    self.wfile.write(data)
                except OSError:  # the node went away
                    self.close_connection = True
                    return
                left -= len(data)
                if self.server.rate:
                    time.sleep(len(data) / self.server.rate)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    root: Path
    rate: float
    requests: list[str]


class Web:
    """Serves everything below `root`. `rate`: bytes a second for each connection, 0 for as fast as possible."""

    def __init__(self, network: Network, root: Path) -> None:
        listening = network.listen()
        self._server = _Server(listening.getsockname(), _Handler, bind_and_activate=False)
        self._server.socket.close()
        self._server.socket = listening
        self._server.root, self._server.rate, self._server.requests = root.resolve(), 0.0, []
        host, port = listening.getsockname()[:2]
        self.prefix = f"http://{host}:{port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def requests(self) -> list[str]:
        return self._server.requests

    @property
    def rate(self) -> float:
        return self._server.rate

    @rate.setter
    def rate(self, value: float) -> None:
        self._server.rate = value

    def url(self, path: Path) -> str:
        return f"{self.prefix}/{path.resolve().relative_to(self._server.root)}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
