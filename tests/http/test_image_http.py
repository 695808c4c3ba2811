"""Bundles from servers that misbehave: nothing but the right bytes, or an error that says what is wrong."""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from k8r_agent.effects.commands import commands
from k8r_agent.effects.http import Http, Patience
from k8r_agent.errors import BundleError, ContentChanged, FetchError, SignatureError
from k8r_agent.image import readback
from k8r_agent.image.bundle import Bundles
from k8r_agent.image.write import write
from tests.fakes.blockdev import FakeDevice
from tests.fakes.bundles import make_assets, make_image, write_bundle
from tests.fakes.simple import Listener
from tests.http.server import Site, serve

HURRY = Patience(connect=1, read=1, stall=0.4, stall_bytes=2000, attempts=4, backoff=0.01, backoff_max=0.05,
                 retry_after_max=0.2, small=5)
DATA = random.Random(3).randbytes(700_000)
USED = ((0, 100), (120, 100), (300, 12))
IMAGE = make_image(blocks=320, used=USED)


@dataclass
class Web:
    site: Site
    prefix: str
    pauses: list[float]

    def http(self, **more: object) -> Http:
        return Http(self.prefix, patience=HURRY, sleep=self.pauses.append, **more)  # type: ignore[arg-type]

    def read(self, *ranges: tuple[int, int], size: int = len(DATA)) -> list[bytes]:
        http = self.http()
        with contextlib.closing(http), contextlib.closing(http.open("file", size)) as file:
            return [file.read(offset, length) for offset, length in ranges]


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    (tmp_path / "file").write_bytes(DATA)
    with serve(tmp_path) as (site, prefix):
        yield Web(site, prefix, [])


def parts(*ranges: tuple[int, int]) -> list[bytes]:
    return [DATA[offset:offset + length] for offset, length in ranges]


SOME = ((0, 1000), (1000, 200_000), (250_000, 10), (500_000, 200_000))


def test_ranges_are_read(web: Web) -> None:
    assert web.read(*SOME) == parts(*SOME)
    assert web.site.connections == 1, "one connection is kept"


def test_a_sequential_reader_asks_less_and_less_often(web: Web) -> None:
    ranges = [(at, 10_000) for at in range(0, 700_000, 10_000)]
    assert web.read(*ranges) == parts(*ranges)
    assert len(web.site.requests) <= 8


def test_a_skipping_reader_does_not_fetch_what_it_skips(web: Web) -> None:
    big = random.Random(4).randbytes(20 << 20)
    (web.site.root / "file").write_bytes(big)
    ranges = ((0, 4000), (8 << 20, 4000), (16 << 20, 4000))
    assert web.read(*ranges, size=len(big)) == [big[o:o + n] for o, n in ranges]
    assert web.site.served < 1 << 20


@pytest.mark.parametrize("kind", ["no-ranges", "no-length"])
def test_a_server_without_ranges_or_lengths_is_read_from_its_beginning(web: Web, kind: str) -> None:
    web.site.misbehave(kind)
    assert web.read(*SOME) == parts(*SOME)


@pytest.mark.fault(10)
def test_200_instead_of_206_once_is_no_trouble(web: Web) -> None:
    web.read((0, 10))
    web.site.misbehave("no-ranges", times=1)
    assert web.read((400_000, 1000), (650_000, 1000)) == parts((400_000, 1000), (650_000, 1000))


@pytest.mark.fault(8)
def test_short_bodies_are_noticed_and_continued(web: Web) -> None:
    web.site.misbehave("short", after=150_000, times=3)
    assert web.read((0, 700_000)) == parts((0, 700_000))
    assert [r for _, r in web.site.requests] == [f"bytes={at}-699999" for at in (0, 150_000, 300_000, 450_000)]


def test_a_body_that_never_gets_anywhere_is_given_up(web: Web) -> None:
    web.site.misbehave("short", after=0)
    with pytest.raises(FetchError) as caught:
        web.read((0, 1000))
    assert "4 attempts" in str(caught.value)


@pytest.mark.parametrize("kind", ["stall", "trickle"])
def test_a_stall_is_noticed_and_continued(web: Web, kind: str) -> None:
    web.site.misbehave(kind, after=1000, delay=0.01, times=2)
    began = time.monotonic()
    assert web.read((0, 700_000)) == parts((0, 700_000))
    assert time.monotonic() - began < 5


def test_a_trickle_does_not_go_on_for_ever(web: Web) -> None:
    web.site.misbehave("trickle", delay=0.01)
    with pytest.raises(FetchError) as caught:
        web.read((0, 700_000))
    assert "stalls" in str(caught.value)


def test_retry_after_is_honoured_but_not_for_ever(web: Web) -> None:
    web.site.misbehave("status", status=503, retry_after="86400", times=1)
    web.site.misbehave("status", status=429, retry_after="0", times=1)
    web.site.misbehave("status", status=503, retry_after="Fri, 31 Dec 1999 23:59:59 GMT", times=1)
    assert web.read((0, 10)) == parts((0, 10))
    assert web.pauses == [0.2, 0.0, 0.0]


@pytest.mark.fault(9)
@pytest.mark.parametrize(("status", "says"), [(404, "does not exist"), (403, "not open"), (401, "not open"),
                                              (400, "says 400")])
def test_what_will_not_pass_is_not_retried(web: Web, status: int, says: str) -> None:
    web.site.misbehave("status", status=status)
    with pytest.raises(FetchError) as caught:
        web.read((0, 10))
    assert says in str(caught.value) and len(web.site.requests) == 1


@pytest.mark.parametrize(("kind", "says"), [
    ("page", "has 70 bytes"), ("wrong-range", "were asked for"), ("wrong-total", "has 700001 bytes"),
    ("gzip", "encoding"),
])
def test_answers_that_cannot_be_right_are_refused(web: Web, kind: str, says: str) -> None:
    web.site.misbehave(kind)
    with pytest.raises(FetchError) as caught:
        web.read((5, 10))
    assert says in str(caught.value)
    if kind == "page":
        assert "web page" in caught.value.hint


@pytest.mark.parametrize(("size", "at"), [
    (len(DATA) - 1, 0), (len(DATA) + 1000, 0), (len(DATA) + 1000, len(DATA) + 5),
])
def test_the_manifest_decides_on_the_size(web: Web, size: int, at: int) -> None:
    with pytest.raises(FetchError) as caught:
        web.read((at, 10), size=size)
    assert "the manifest says" in str(caught.value)


@pytest.mark.fault(10)
@pytest.mark.parametrize("etags", ["strong", "weak", "none"])
def test_a_file_that_is_replaced_between_requests_is_noticed(web: Web, etags: str) -> None:
    web.site.etags = etags
    http = web.http()
    with contextlib.closing(http), contextlib.closing(http.open("file", len(DATA))) as file:
        assert file.read(0, 1000) == DATA[:1000]
        other = bytes(len(DATA))
        (web.site.root / "file").write_bytes(other)
        os.utime(web.site.root / "file", (1, 1))
        if etags == "none":  # then only the hash can tell
            assert file.read(600_000, 10) == other[:10]
            return
        with pytest.raises(ContentChanged):
            file.read(600_000, 10)
        file.forget()
        assert file.read(600_000, 10) == other[:10]


def test_if_range_is_sent_with_strong_etags_only(web: Web) -> None:
    for etags in ("strong", "weak"):
        web.site.etags = etags
        assert web.read((0, 10), (600_000, 10)) == parts((0, 10), (600_000, 10))


def test_redirects_are_followed_a_few_times(web: Web, tmp_path: Path) -> None:
    web.site.misbehave("redirect", path="/file", location="/other/file", times=1)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").write_bytes(DATA)
    assert web.read((0, 10)) == parts((0, 10))


@pytest.mark.parametrize(("location", "says"), [
    ("/file", "more than 5 redirects"), ("ftp://127.0.0.1/file", "not an http"), ("file:///etc/passwd", "not an http"),
    ("", "more than 5 redirects"),
])
def test_redirects_that_lead_nowhere_are_refused(web: Web, location: str, says: str) -> None:
    web.site.misbehave("redirect", location=location)
    with pytest.raises(FetchError) as caught:
        web.read((0, 10))
    assert says in str(caught.value)


def certificate(directory: Path) -> Path:
    key, cert = directory / "key.pem", directory / "cert.pem"
    commands().run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                    "-keyout", str(key), "-out", str(cert), "-subj", "/CN=127.0.0.1", "-addext",
                    "subjectAltName=IP:127.0.0.1"])
    both = directory / "both.pem"
    both.write_bytes(key.read_bytes() + cert.read_bytes())
    return both


def expired(directory: Path) -> Path:
    certificate(directory)
    (directory / "index.txt").write_text("")
    (directory / "serial").write_text("01")
    (directory / "ca.cnf").write_text(
        f"[ca]\ndefault_ca = d\n[d]\ndatabase = {directory}/index.txt\nnew_certs_dir = {directory}\n"
        f"serial = {directory}/serial\ndefault_md = sha256\npolicy = p\n[p]\ncommonName = supplied\n")
    key, cert = directory / "key.pem", directory / "cert.pem"
    commands().run(["openssl", "req", "-new", "-key", str(key), "-subj", "/CN=127.0.0.1",
                    "-out", str(directory / "csr.pem")])
    commands().run(["openssl", "ca", "-batch", "-selfsign", "-config", str(directory / "ca.cnf"), "-keyfile", str(key),
                    "-in", str(directory / "csr.pem"), "-out", str(cert), "-notext", "-startdate", "20200101000000Z",
                    "-enddate", "20200201000000Z"])
    both = directory / "both.pem"
    both.write_bytes(key.read_bytes() + cert.read_bytes())
    return both


def test_https_with_a_private_authority_and_never_down_to_http(web: Web, tmp_path: Path) -> None:
    pem = certificate(tmp_path)
    with serve(tmp_path, certificate=pem) as (site, prefix):
        http = Http(prefix, patience=HURRY, ca_file=str(tmp_path / "cert.pem"))
        assert http.small("file", 1 << 20) == DATA
        site.misbehave("redirect", location=f"{web.prefix}file", times=1)
        with pytest.raises(FetchError) as caught:
            http.small("file", 1 << 20)
        assert "https to http" in str(caught.value)
        with pytest.raises(FetchError) as caught:
            Http(prefix, patience=HURRY).small("file", 1 << 20)
        assert "update.ca_file" in caught.value.hint
        with pytest.raises(FetchError):
            Http(prefix, patience=HURRY, ca_file="/nonexistent").small("file", 1 << 20)


@pytest.mark.fault(15)
def test_an_expired_certificate_points_at_the_clock(tmp_path: Path) -> None:
    pem = expired(tmp_path)
    with serve(tmp_path, certificate=pem) as (_, prefix):
        with pytest.raises(FetchError) as caught:
            Http(prefix, patience=HURRY, ca_file=str(tmp_path / "cert.pem")).small("file", 10)
    assert "clock" in caught.value.hint


def test_nobody_listens() -> None:
    with pytest.raises(FetchError) as caught:
        Http("http://127.0.0.1:9/", patience=HURRY, sleep=lambda s: None).small("file", 10)
    assert "refused" in str(caught.value)


def test_small_files_have_a_limit_and_may_be_missing(web: Web) -> None:
    http = web.http()
    assert http.small("nothing", 10, optional=True) is None
    with pytest.raises(FetchError):
        http.small("nothing", 10)
    with pytest.raises(FetchError) as caught:
        http.small("file", 1000)
    assert "too large" in str(caught.value)
    web.site.misbehave("short", after=10, times=1)
    assert http.small("file", 1 << 20) == DATA


# whole bundles

def key(directory: Path) -> Path:
    commands().run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "tester", "-f", str(directory / "key")])
    public = (directory / "key.pub").read_text()
    (directory / "signers").write_text(f"tester {public}")
    return directory / "signers"


def sign(directory: Path, private: Path) -> None:
    commands().run(["ssh-keygen", "-q", "-Y", "sign", "-f", str(private), "-n", "k8r-bundle",
                    str(directory / "manifest.toml")])


@dataclass
class Shop:
    web: Web
    bundles: Bundles

    def update(self, device: FakeDevice) -> int:
        """Writes and reads back; bytes fetched."""
        with self.bundles.open(self.web.prefix) as bundle, bundle.image() as source:
            written = write(device, source, report=Listener())
        readback.verify(device, written.index, report=Listener())
        return written.fetched


@pytest.fixture(params=["zstd", "xz", "zstd-stream", "none"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    root = tmp_path / "bundle"
    how = str(request.param)
    write_bundle(root, IMAGE, used=USED, compression=how.split("-")[0], indexed=how != "zstd-stream")
    signers = key(tmp_path)
    sign(root, tmp_path / "key")
    with serve(root) as (site, prefix):
        yield Shop(Web(site, prefix, []), Bundles(commands(), signers=[signers], patience=HURRY))


def device() -> FakeDevice:
    return FakeDevice(2 << 20, content=random.Random(5).randbytes(2 << 20))


def right(found: FakeDevice) -> bool:
    return all(found.medium[f * 4096:(f + c) * 4096] == IMAGE[f * 4096:(f + c) * 4096] for f, c in USED)


def test_a_bundle_over_http(shop: Shop) -> None:
    found = device()
    shop.update(found)
    assert right(found)
    with shop.bundles.open(shop.web.prefix) as bundle:
        assert bundle.signer == "tester"
        assert bundle.boot_assets() == make_assets(2)


@pytest.mark.parametrize(("kind", "more"), [
    ("no-ranges", {}), ("short", {"after": 100_000, "times": 5}), ("status", {"times": 3}),
    ("stall", {"after": 50_000, "times": 2}), ("no-length", {}),
])
def test_a_bundle_over_bad_http(shop: Shop, kind: str, more: dict[str, Any]) -> None:
    shop.web.site.misbehave(kind, **more)
    found = device()
    shop.update(found)
    assert right(found)


def test_a_second_update_fetches_next_to_nothing(shop: Shop) -> None:
    found = device()
    first = shop.update(found)
    found.log.clear()
    second = shop.update(found)
    assert not found.writes
    with shop.bundles.open(shop.web.prefix) as bundle:
        compression = bundle.manifest.artifacts[0].compression
        if compression != "xz" and bundle.raw_index():
            assert second < first / 10


def test_an_image_that_was_swapped_is_refused_and_the_slot_is_no_file_system(shop: Shop) -> None:
    image = next(p for p in shop.web.site.root.iterdir() if p.name.startswith("image.img"))
    data = bytearray(image.read_bytes())
    data[len(data) // 2] ^= 1
    image.write_bytes(data)
    found = device()
    with pytest.raises((BundleError, FetchError)):
        shop.update(found)
    assert found.medium[:4096] in (bytes(4096), device().medium[:4096])


@pytest.mark.fault(11)
def test_a_signed_manifest_comes_first(shop: Shop) -> None:
    manifest = shop.web.site.root / "manifest.toml"
    manifest.write_bytes(manifest.read_bytes().replace(b"release = 2", b"release = 9"))
    with pytest.raises(SignatureError) as caught, shop.bundles.open(shop.web.prefix):
        pass
    assert "does not fit" in str(caught.value)
    assert {path for path, _ in shop.web.site.requests} == {"/manifest.toml", "/manifest.toml.sig"}
    manifest.with_name("manifest.toml.sig").unlink()
    with pytest.raises(SignatureError) as caught, shop.bundles.open(shop.web.prefix):
        pass
    assert "not signed" in str(caught.value)


@pytest.mark.fault(9)
def test_a_portal_that_answers_everything_with_a_page(shop: Shop) -> None:
    shop.web.site.misbehave("page")
    with pytest.raises(SignatureError) as caught, shop.bundles.open(shop.web.prefix):
        pass
    assert "web page" in caught.value.hint
