"""What answers at an endpoint, over real TLS: an API server, or something else."""

from __future__ import annotations

import http.server
import ssl
import subprocess
import threading
from collections.abc import Iterator

import pytest

from k8r_agent.effects import kubeapi


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        code, body = self.server.answer  # type: ignore[attr-defined]
        self.send_response(code)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[http.server.HTTPServer]:
    here = tmp_path_factory.mktemp("tls")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                    "-keyout", str(here / "key"), "-out", str(here / "crt"), "-subj", "/CN=stranger", "-days", "2"],
                   check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(here / "crt", here / "key")
    found = http.server.HTTPServer(("127.0.0.1", 0), _Handler)
    found.socket = context.wrap_socket(found.socket, server_side=True)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()


@pytest.mark.parametrize(("code", "body", "foreign"), [
    (200, b'{"kind": "ConfigMap", "data": {}}', False),
    (403, b'{"kind": "Status", "reason": "Forbidden"}', False),
    (404, b"<html>Not here</html>", True),
    (503, b"", True),
    (200, b'["kind"]', True),
    (200, b'{"kind": "x' + b"[" * 100_000, True),
])
def test_only_what_speaks_like_an_api_server_is_one(server: http.server.HTTPServer, code: int, body: bytes,
                                                    foreign: bool) -> None:
    server.answer = (code, body)  # type: ignore[attr-defined]
    found = kubeapi.probe(f"127.0.0.1:{server.server_port}")
    assert (found.reachable, found.foreign, found.local) == (True, foreign, True)
    assert bool(found.why) is foreign


def test_what_speaks_no_tls_is_no_api_server() -> None:
    plain = http.server.HTTPServer(("127.0.0.1", 0), _Handler)
    threading.Thread(target=plain.handle_request, daemon=True).start()
    found = kubeapi.probe(f"127.0.0.1:{plain.server_port}")
    plain.server_close()
    assert not found.reachable and "no API server" in found.why
