"""Everything that reads what somebody else wrote. A target gets bytes and may raise K8rError, and nothing else."""

from __future__ import annotations

import base64
import contextlib
import io
import itertools
import lzma
import socket
import tarfile
import tempfile
import threading
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import zstandard

from k8r_agent.boot import assetfiles, grubfiles, sdfiles
from k8r_agent.config import fragments, legacy, merge
from k8r_agent.config.table import TABLE, toml_text
from k8r_agent.effects.accounts import Accounts, User
from k8r_agent.effects.http import Http, Patience
from k8r_agent.effects.table import new_writes, read_table
from k8r_agent.errors import K8rError
from k8r_agent.image import bootassets, ext4, signature, unpack
from k8r_agent.image import index as indexes
from k8r_agent.image import manifest as manifests
from k8r_agent.model import marker, superblock
from k8r_agent.model.boot import Content
from k8r_agent.model.cluster import JoinSecret, Membership, Phase
from k8r_agent.model.slots import Slot
from k8r_agent.steps import STEPS, duties
from k8r_agent.store import cluster, condemned, cordon, jsonfile, tasks, upgrade
from k8r_agent.store.events import EventLog
from k8r_agent.store.journal import Journal
from k8r_agent.store.queue import Queue
from k8r_agent.store.slots import SlotStore
from tests.fakes import ext4 as fake_ext4
from tests.fakes.flashed import MIB, as_disk, flashed_gpt, flashed_mbr
from tests.fakes.golden import index_of, manifest_of
from tests.fakes.medium import Medium
from tests.fakes.statefiles import FakeStateFiles

ROOT = Path(__file__).resolve().parents[2]
FORMATS = ROOT / "tests" / "data" / "formats"
UNPACKED = 64 * MIB  # what a small input may unpack to before somebody stops it


@dataclass(frozen=True)
class Target:
    """`seeds`: inputs that are right."""

    read: Callable[[bytes], None]
    seeds: tuple[bytes, ...]


def _config(data: bytes) -> None:
    text = fragments.decode(data, where="f")
    for parse in (fragments.parse, legacy.parse):
        loaded = merge.merge([parse(text, Path("f"))])
        for row in TABLE:
            toml_text(row, getattr(getattr(loaded.settings, row.section), row.key))


def _task(data: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir="/dev/shm", suffix=".toml") as file:
        file.write(data)
        file.flush()
        tasks.parse(Path(file.name), STEPS)


def _files(name: str, data: bytes) -> FakeStateFiles:
    files = FakeStateFiles()
    files.live[name] = data
    return files


def _journal(data: bytes) -> None:
    files = _files("transaction.json", data)
    txn = Journal(files).load()
    if txn is not None:
        Journal(files).save(txn)


def _events(data: bytes) -> None:
    log = EventLog(_files("events.jsonl", data))
    log.read()
    list(log.numbered())


def _queue(data: bytes) -> None:
    queue = Queue(_files("queue/20261121T120000.000000Z-0000.json", data))
    queue.pending()
    queue.requests()


def _slots(data: bytes) -> None:
    store = SlotStore(_files("slots.json", data))
    for slot in Slot:
        store.set_status(slot, store.status(slot))
    store.keep(3, {"manifest.toml": b"x"})


def _duties(data: bytes) -> None:
    files = _files("duties.json", data)
    duties.save(files, duties.counters(files))


def _cluster(data: bytes) -> None:
    reads: tuple[tuple[str, Callable[[FakeStateFiles], object]], ...] = (
        (cluster.MEMBERSHIP, cluster.membership), (cluster.JOIN, cluster.join_secret), (upgrade.NAME, upgrade.load),
        (cordon.NAME, cordon.load), (condemned.NAME, condemned.load))
    for name, read in reads:
        with contextlib.suppress(K8rError):
            read(_files(name, data))


def _superblock(data: bytes) -> None:
    superblock.parse(data)
    if len(data) >= 4096:
        ext4.Relabel(data, uuid=uuid.UUID(int=1), label="writable")(0, data[:4096])


def _table(data: bytes) -> None:
    """The first bytes of the input replace those of a good table, where it says."""
    medium = (flashed_gpt, flashed_mbr)[data[0] & 1 if data else 0](64 * MIB)
    for n, at in enumerate((0, 512, 1024, 17 * MIB)):
        piece = data[1 + n * 512:1 + (n + 1) * 512]
        if piece:
            old = medium.read(at, 512)
            medium.durable[at // 512] = piece + old[len(piece):]
    _read_table(medium)


def _read_table(medium: Medium) -> None:
    found = read_table(medium, sector=512)
    new_writes(medium, as_disk(medium, found).partitions, new_id=found.id, sector=512)


def _boot_files(data: bytes) -> None:
    sdfiles.parse_loader_conf(data)
    sdfiles.parse_entry(data)
    sdfiles.parse_name(data.decode("latin-1"))
    sdfiles.parse_pattern(data.decode("latin-1"))
    grubfiles.parse_block(data)
    decision = grubfiles.parse_decision(data)
    assert len(grubfiles.render_decision(decision)) == 512
    whole = Content.of([data])
    small = dict.fromkeys((assetfiles.CMDLINE, assetfiles.RELEASE, assetfiles.SUMS), data)
    assetfiles.parse(small, whole, whole, files=lambda: iter(()))


def _marker(data: bytes) -> None:
    marker.parse(data)


def _accounts(data: bytes) -> None:
    """Its one caller takes ValueError for a damaged copy."""
    with contextlib.suppress(ValueError):
        Accounts.from_json(data).to_json()


def _pieces(data: bytes, size: int = 1000) -> Callable[[], bytes]:
    parts = itertools.chain((data[at:at + size] for at in range(0, len(data), size)), itertools.repeat(b""))
    return lambda: next(parts)


def _unpack(data: bytes) -> None:
    for compression in ("xz", "zstd"):
        size = 0
        for piece in unpack.unpack(_pieces(data), compression, name="f"):
            assert len(piece) <= unpack.PIECE
            size += len(piece)
            if size > UNPACKED:
                break
    unpack.frame(data, 1 << 16, name="f")


def _assets(data: bytes) -> None:
    found = bootassets.read(lambda: iter([data[:100], data[100:]]), name="boot.tar")
    for _, pieces in found.files():
        for piece in pieces:
            assert isinstance(piece, bytes)


def _index(data: bytes) -> None:
    index = indexes.read(data)
    assert indexes.read(indexes.write(index)) == index
    for n, _ in zip(range(len(index.chunks)), range(100), strict=False):
        indexes.chunk_range(index, n)


def _signature(data: bytes) -> None:
    signature._fingerprint(data)


def _manifest(data: bytes) -> None:
    found = manifests.read(data)
    assert manifests.read(manifests.write(found)) == found


class Server:
    """Answers every connection with the same bytes, then hangs up."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port, self.answer = self._socket.getsockname()[1], b""
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            with connection:
                try:
                    connection.settimeout(1)
                    connection.recv(65536)
                    connection.sendall(self.answer)
                except OSError:
                    continue


_server: list[Server] = []


def _http(data: bytes) -> None:
    if not _server:
        _server.append(Server())
    _server[0].answer = data
    patience = Patience(attempts=1, backoff=0.0, connect=1.0, read=1.0, stall=1.0, small=2.0, redirects=1)
    http = Http(f"http://127.0.0.1:{_server[0].port}/", patience=patience, sleep=lambda seconds: None)
    try:
        for act in (lambda: http.small("manifest.toml", 4096), lambda: http.size("f"),
                    lambda: http.open("f", 1000).read(10, 100)):
            try:
                act()
            except K8rError:
                continue
    finally:
        http.close()


def _answer(status: str, *headers: str, body: bytes = b"") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode() + body


def _tar(*members: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _formats(name: str) -> tuple[bytes, ...]:
    return tuple(path.read_bytes() for path in sorted(FORMATS.glob(f"{name}-*")))


def _sectors(medium: Medium, kind: bytes) -> bytes:
    return kind + b"".join(medium.read(at, 512) for at in (0, 512, 1024))


CONFIG = (b'[node]\nhostname = "n1"\nrole = "worker"\n[access]\nauthorized_keys = ["ssh-ed25519 AAAA x"]\n'
          b'[disk]\nimage_size = "4GiB"\n[update]\nsource = "https://example.org/k8r"\nauto = true\n')
VARIABLES = b"HTTP_IMAGE_URL=http://example.org/image\nexport HOSTNAME=\"n1\"\nKUBERNETES_VERSION='1.20'\n"
ENTRY = sdfiles.render_entry(Slot.WORKING, "a", "quiet")
MANY = b"9" * 5000  # more digits than Python reads
DEEP = b"[" * 20_000  # parsers that call themselves run out of stack
ACCOUNTS = Accounts(users=(User(name="ops", uid=1000, gid=1000, gecos="", home="/home/ops", shell="/bin/sh",
                                shadow=("!",), groups=("sudo",)),), groups={"ops": 1000}).to_json()
DECISION = grubfiles.render_decision(grubfiles.GrubDecision(primary=Slot.IMAGE, tries=3))

SIGNATURE = (b"-----BEGIN SSH SIGNATURE-----\n" + base64.b64encode(
    b"SSHSIG\0\0\0\1" + (51).to_bytes(4, "big") + (11).to_bytes(4, "big") + b"ssh-ed25519"
    + (32).to_bytes(4, "big") + bytes(32)) + b"\n-----END SSH SIGNATURE-----\n")

CLUSTER = (*(jsonfile.encode({"format": 1, **asdict(record)}) for record in (
    Membership(phase=Phase.MEMBER, role="worker"), JoinSecret(ca_hashes=("sha256:0",)),
    upgrade.Upgrade(txn="t", before="v1.20.0", after="v1.20.15", release=2),
    cordon.Cordon(node="n", txn="t", time=1.0))), b'{"format": 1, "releases": {"2": {"why": "w", "time": 1.0}}}')

TARGETS: dict[str, Target] = {
    "manifest": Target(_manifest, (manifests.write(manifest_of(1)),)),
    "index": Target(_index, (indexes.write(index_of(1)),)),
    "configuration": Target(_config, (CONFIG, VARIABLES)),
    "task": Target(_task, tuple(path.read_bytes() for path in sorted((ROOT / "tasks").glob("*.toml")))),
    "journal": Target(_journal, _formats("transaction")),
    "events": Target(_events, _formats("events")),
    "queue": Target(_queue, _formats("request")),
    "slots": Target(_slots, _formats("slots")),
    "duties": Target(_duties, _formats("duties")),
    "cluster": Target(_cluster, CLUSTER),
    "superblock": Target(_superblock, (
        fake_ext4.superblock(uuid="00000001-0000-4000-8000-000000000000", label="image", size=MIB),
        fake_ext4.image(MIB, label="image")[:8192])),
    "table": Target(_table, (_sectors(flashed_gpt(64 * MIB), b"\0"), _sectors(flashed_mbr(64 * MIB), b"\1"))),
    "boot files": Target(_boot_files, (ENTRY, DECISION, sdfiles.render_loader_conf(Slot.IMAGE))),
    "marker": Target(_marker, (marker.build(marker.Marker(uuid="00000001-0000-4000-8000-000000000000", time=1)),)),
    "accounts": Target(_accounts, (ACCOUNTS,)),
    "unpack": Target(_unpack, (lzma.compress(b"x" * 5000), zstandard.ZstdCompressor().compress(b"x" * 5000))),
    "boot assets": Target(_assets, (_tar(("vmlinuz", b"k"), ("initrd.img", b"i"), ("cmdline", b"quiet\n")),)),
    "signature": Target(_signature, (SIGNATURE,)),
    "http": Target(_http, (
        _answer("200 OK", "Content-Length: 5", 'ETag: "x"', body=b"hello"),
        _answer("206 Partial Content", "Content-Range: bytes 10-109/1000", "Content-Length: 100", body=bytes(100)),
        _answer("302 Found", "Location: http://127.0.0.1:1/", "Content-Length: 0"),
        _answer("503 Busy", "Retry-After: 1", "Content-Length: 0"),
        _answer("416 No", "Content-Range: bytes */5", "Content-Length: 0"),
        _answer("200 OK", "Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n"))),
}


TEXTS = ("manifest", "index", "configuration", "task", "journal", "events", "queue", "slots", "duties", "accounts",
         "cluster")
# Words that lead where bytes alone rarely do.
WORDS = (MANY, b"\xb2", "\u0661".encode(), b"Infinity", b"NaN", b"1e999", b"-1", b"99999999999999999999", b"null",
         b"true", b"[]", b"{}", b'"', b'"""',
         b"\\u0000", b"\\ud800", b"..", b"/", b"../", b"\0", b"Content-Length: ", b"Content-Range: bytes ",
         b"Transfer-Encoding: chunked", b"Location: ", b"EFI PART", b"\x53\xef", b"\x55\xaa")


def seeds(name: str) -> tuple[bytes, ...]:
    return (*TARGETS[name].seeds, *([DEEP, b'{"format": 1, "x": ' + DEEP, b"x = " + DEEP] if name in TEXTS else []))


def run(name: str, data: bytes) -> None:
    """One execution. Whatever comes out but K8rError is a fault."""
    try:
        TARGETS[name].read(data)
    except K8rError as error:
        assert error.what and isinstance(str(error), str)
