"""A server that wants to do harm: bounded time, memory and disk, one typed error, and no file system made of lies."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from k8r_agent.effects.commands import commands
from k8r_agent.effects.http import Http, Patience
from k8r_agent.errors import BundleError, FetchError
from k8r_agent.model import superblock
from tests.fakes import ext4
from tests.fakes.blockdev import FakeDevice
from tests.fakes.bundles import pack
from tests.http.server import serve
from tests.http.test_image_http import DATA, Shop, Web, certificate, device, shop, web

__all__ = ["shop", "web"]  # fixtures

SHORT = Patience(connect=1, read=1, header=1, stall=0.5, stall_bytes=2000, attempts=2, backoff=0.01, small=4)
OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.fault(8)
@pytest.mark.parametrize(("kind", "raw"), [
    ("letters", b"HTTP/1.1 200 "), ("letters", OK + b"X-Name: "), ("again", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ("letters", OK + b"Transfer-Encoding: chunked\r\n\r\n5;"),
    ("letters", OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Trailer: "),
    ("letters", OK + b"Content-Length: 100\r\n\r\n"), ("letters", OK + b"\r\n")])
def test_a_letter_now_and_then_does_not_go_on_for_ever(web: Web, kind: str, raw: bytes) -> None:
    web.site.misbehave(kind, raw=raw, delay=0.1)
    started = time.monotonic()
    acts: list[Callable[[Http], object]] = [lambda http: http.small("file", 1000),
                                            lambda http: http.open("file", len(DATA)).read(0, 100)]
    for act in acts:
        with pytest.raises(FetchError) as caught:
            act(Http(web.prefix, patience=SHORT))
        assert caught.value.why or caught.value.hint
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(("raw", "more"), [
    (OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n", b"X-Trailer: y\r\n" * 1000),
    (OK, b"X-Name: y\r\n" * 1000)], ids=["trailers", "headers"])
def test_a_fast_answer_without_end_does_not_go_on_for_ever(web: Web, raw: bytes, more: bytes) -> None:
    web.site.misbehave("letters", raw=raw, more=more, delay=0.0)
    started = time.monotonic()
    acts: list[Callable[[Http], object]] = [lambda http: http.small("file", 1 << 30),
                                            lambda http: http.open("file", len(DATA)).read(0, len(DATA))]
    for act in acts:
        with pytest.raises(FetchError):
            act(Http(web.prefix, patience=SHORT))
    assert time.monotonic() - started < 30


def test_after_a_stuck_answer_the_next_one_is_read(web: Web) -> None:
    web.site.misbehave("letters", raw=OK + b"X-Name: ", delay=0.1, times=1)
    assert Http(web.prefix, patience=SHORT).small("file", 1 << 20) == DATA


def test_a_small_file_without_end_is_cut_off(web: Web) -> None:
    web.site.misbehave("again", raw=OK + b"\r\n" + b"x" * 100_000, delay=0.0)
    with pytest.raises(FetchError, match="too large"):
        Http(web.prefix, patience=SHORT).small("file", 64 << 10)


@pytest.mark.parametrize("header", [b"X: " + b"y" * 70_000, b"\r\n".join(b"X-%d: y" % n for n in range(200)),
                                    b"\0: \xff", b"Content-Length: -5", b"Content-Length: 99999999999999999999",
                                    b"Content-Range: bytes 0-99/10", b"Content-Encoding: gzip"])
def test_headers_that_are_none(web: Web, header: bytes) -> None:
    web.site.misbehave("letters", raw=OK + header + b"\r\n\r\n", delay=10)
    started = time.monotonic()
    with pytest.raises(FetchError):
        Http(web.prefix, patience=SHORT).open("file", len(DATA)).read(0, 100)
    assert time.monotonic() - started < 15


def bomb(compression: str, size: int) -> bytes:
    """As long as the file that it replaces, and unpacks to gigabytes of zeros."""
    piece = pack(bytes(64 << 20), compression if compression != "none" else "zstd")
    return (piece * (size // len(piece) + 1))[:size]


def memory(what: str) -> int:
    """KiB: VmRSS is what is in use, VmHWM the most that ever was."""
    found = re.search(rf"^{what}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1])


@pytest.mark.fault(40)
@pytest.mark.parametrize("which", ["image.img", "boot.tar"])
def test_a_bomb_in_place_of_a_signed_file(shop: Shop, which: str) -> None:
    path = next(p for p in shop.web.site.root.iterdir() if p.name.startswith(which))
    compression = {".zst": "zstd", ".xz": "xz"}.get(path.suffix, "none")
    path.write_bytes(bomb(compression, path.stat().st_size))
    found, started = device(), time.monotonic()
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on
    before = memory("VmRSS")
    with pytest.raises((BundleError, FetchError)):
        if which == "image.img":
            shop.update(found)
        else:
            with shop.bundles.open(shop.web.prefix) as bundle:
                bundle.boot_assets()
    assert time.monotonic() - started < 60
    assert memory("VmHWM") - before < 200 << 10, "KiB"
    assert found.medium[:4096] in (bytes(4096), device().medium[:4096]), "it looks like a file system"
    assert sum(entry.length for entry in found.writes) <= 2 * found.size


def test_a_redirect_to_another_host_changes_nobody_s_mind(shop: Shop, tmp_path: Path) -> None:
    """It is followed, and what comes from there must be what was signed."""
    image = next(p.name for p in shop.web.site.root.iterdir() if p.name.startswith("image.img"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / image).write_bytes(bytes((shop.web.site.root / image).stat().st_size))
    with serve(elsewhere) as (_, prefix):
        shop.web.site.misbehave("redirect", path=f"/{image}", location=f"{prefix}{image}")
        found = device()
        with pytest.raises((BundleError, FetchError)):
            shop.update(found)
    assert found.medium[:4096] in (bytes(4096), device().medium[:4096])


@pytest.mark.parametrize("location", ["file:///etc/shadow", "/../../etc/shadow", "gopher://127.0.0.1/", "http://",
                                      "http://[::1", "\\\\host\\share", "data:text/plain,x", "http://127.0.0.1:1/x"])
def test_redirects_out_of_the_web(web: Web, location: str) -> None:
    web.site.misbehave("redirect", location=location)
    started = time.monotonic()
    with pytest.raises(FetchError):
        Http(web.prefix, patience=SHORT).small("file", 1000)
    assert time.monotonic() - started < 15


def test_a_certificate_of_somebody_else(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    pem = certificate(tmp_path)
    commands().run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                    "-keyout", str(other / "key.pem"), "-out", str(other / "cert.pem"), "-subj", "/CN=evil.example",
                    "-addext", "subjectAltName=DNS:evil.example"])
    (other / "both.pem").write_bytes((other / "key.pem").read_bytes() + (other / "cert.pem").read_bytes())
    with serve(tmp_path, certificate=other / "both.pem") as (_, prefix):
        for trusted in (tmp_path / "cert.pem", other / "cert.pem"):  # not trusted; trusted, but for another name
            with pytest.raises(FetchError, match="cannot prove who it is"):
                Http(prefix, patience=SHORT, ca_file=str(trusted)).small("both.pem", 1 << 20)
    assert pem.exists()


@pytest.mark.fault(10)
def test_files_swapped_between_two_requests(shop: Shop) -> None:
    """The kernel is asked for once more after the image was written: another one by then is refused."""
    with shop.bundles.open(shop.web.prefix) as bundle:
        assets, found = bundle.boot_assets(), device()
        shop.update(found)
        boot = next(p for p in shop.web.site.root.iterdir() if p.name.startswith("boot.tar"))
        boot.write_bytes(bytes(reversed(boot.read_bytes())))
        with pytest.raises((BundleError, FetchError)):
            for _, pieces in assets.files():
                b"".join(pieces)
        with pytest.raises((BundleError, FetchError)):
            bundle.boot_assets()


@pytest.mark.fault(10)
@pytest.mark.parametrize("number", [1, 4])
@pytest.mark.parametrize("etags", ["strong", "weak", "none"])
def test_an_image_swapped_in_the_middle(shop: Shop, etags: str, number: int) -> None:
    """Each connection breaks off, and after some of them another file of the same length is there: the rest of it does
    not become the rest of the image."""
    site = shop.web.site
    image = next(p for p in site.root.iterdir() if p.name.startswith("image.img"))
    path, other = f"/{image.name}", random.Random(number).randbytes(image.stat().st_size)

    def swap(asked: str, count: int) -> None:
        if (asked, count) == (path, number):
            image.write_bytes(other)

    site.etags = etags
    site.misbehave("short", path=path, after=70_000, times=number)
    site.answered = swap
    found = formatted()
    with pytest.raises((BundleError, FetchError)) as caught:
        shop.update(found)
    assert caught.value.why or caught.value.hint
    assert [ranged for asked, ranged in site.requests if asked == path][number:], "it did not go on"
    if found.writes[1:]:
        assert not looks_formatted(found), "a mixture looks like a file system"
    else:  # no piece was whole yet; without an index a piece is longer than this image
        assert number == 1 or not (site.root / "image.index.json").exists()
        assert found.medium == formatted().medium


def formatted() -> FakeDevice:
    """A slot that was in use."""
    found = device()
    old = ext4.superblock(uuid="11111111-2222-4333-8444-555555555555", label="k8r-image", size=found.size)
    found.write(superblock.OFFSET, old)
    found.drop_cache()
    assert looks_formatted(found)
    return found


def looks_formatted(found: FakeDevice) -> bool:
    return superblock.parse(bytes(found.medium[superblock.OFFSET:][:superblock.LENGTH])) is not None
