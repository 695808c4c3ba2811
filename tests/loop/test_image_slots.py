"""Slots on loop devices: real ext4, real O_EXCL, a writer that is killed, and e2fsck as the judge."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from k8r_agent.build import chunks, ext4
from k8r_agent.effects.commands import commands
from k8r_agent.effects.device import open_device
from k8r_agent.errors import BundleError, DiskError, SlotBusy
from k8r_agent.image import index as indexes
from k8r_agent.image import readback
from k8r_agent.image.bundle import Bundles
from k8r_agent.image.ext4 import Relabel
from k8r_agent.image.sources import SlotImage
from k8r_agent.image.write import Written, write
from k8r_agent.model.bundle import ImageIndex
from tests.bench.images import Quiet
from tests.fakes.bundles import write_bundle
from tests.fakes.simple import Listener

MIB = 1 << 20
SIZE = 48 * MIB
FEATURES = "metadata_csum,metadata_csum_seed,^orphan_file"


def run(*argv: str, ok: tuple[int, ...] = (0,)) -> str:
    return commands().run(argv, ok=ok).stdout


@contextmanager
def loop(path: Path) -> Iterator[Path]:
    device = run("losetup", "--find", "--show", str(path)).strip()
    run("blockdev", "--setrw", device)  # a test that was killed may have left it read-only; the kernel keeps that
    try:
        yield Path(device)
    finally:
        run("losetup", "--detach", device)


def make_image(path: Path, *, features: str = FEATURES, seed: int = 1, size: int = SIZE) -> ImageIndex:
    tree = path.with_suffix(".tree")
    tree.mkdir()
    for number in range(40):
        (tree / f"file-{number}").write_bytes(bytes([seed, number]) * 200_000)
    run("mke2fs", "-q", "-t", "ext4", "-b", "4096", "-L", "image", "-O", features, "-E",
        "lazy_itable_init=0,lazy_journal_init=0", "-J", "size=4", "-d", str(tree), str(path), f"{size // MIB}M")
    used = ext4.used_blocks(ext4.dump(path, commands()))
    _, index = chunks.pack_image(path, path.with_suffix(".packed"), used=used, compression="none", level=0,
                                 progress=Quiet())
    return index


@contextmanager
def two_slots(directory: Path, size: int = SIZE + 16 * MIB) -> Iterator[tuple[Path, Path]]:
    for name in ("image-slot", "working-slot"):
        with (directory / name).open("wb") as file:
            file.truncate(size)
    with loop(directory / "image-slot") as one, loop(directory / "working-slot") as two:
        yield one, two


def flash(image: Path, device: Path) -> None:
    run("dd", f"if={image}", f"of={device}", "bs=1M", "conv=fsync,notrunc", "status=none")


def reinstall(image: Path, working: Path, index: ImageIndex) -> Written:
    with open_device(image) as slot, open_device(working, write=True) as device:
        patch = Relabel(slot.read(0, 4096), uuid=uuid.uuid4(), label="writable")
        written = write(device, SlotImage(slot, index), report=Listener(), patch=patch)
        readback.verify(device, written.index, report=Listener(), changed=written.changed)
    return written


def fields(device: Path) -> dict[str, str]:
    return dict(re.findall(r"^([^:\n]+):\s+(.*)$", run("dumpe2fs", "-h", str(device)), re.M))


@pytest.mark.fault(34)
def test_a_reinstalled_slot_is_a_clean_file_system_with_uuid_and_label_of_its_own(tmp_path: Path) -> None:
    size = 136 * MIB  # two block groups, the second with a copy of the superblock
    index = make_image(tmp_path / "image.img", size=size)
    with two_slots(tmp_path, size + 16 * MIB) as (image, working):
        flash(tmp_path / "image.img", image)
        run("mke2fs", "-q", "-t", "ext4", str(working))  # another life of the slot
        first = reinstall(image, working, index)
        assert first.written > 0 and len(first.changed) == 2
        old, new = fields(image), fields(working)
        assert new["Filesystem volume name"] == "writable" and old["Filesystem volume name"] == "image"
        assert new["Filesystem UUID"] != old["Filesystem UUID"]
        run("e2fsck", "-fn", str(working))
        copy = re.search(r"Filesystem UUID:\s+(\S+)", run("dumpe2fs", "-h", "-o", "superblock=32768", "-o",
                                                          "blocksize=4096", str(working)))
        assert copy and copy[1] == new["Filesystem UUID"]
        assert run("blkid", "-p", "-o", "value", "-s", "LABEL", str(working)).strip() == "writable"
        second = reinstall(image, working, index)
        assert second.written <= 8 * 4096, "only superblocks differ: they carry another UUID"


def test_a_used_working_slot_is_repaired_with_what_differs(tmp_path: Path) -> None:
    index = make_image(tmp_path / "image.img")
    mount = tmp_path / "mnt"
    mount.mkdir()
    with two_slots(tmp_path) as (image, working):
        flash(tmp_path / "image.img", image)
        reinstall(image, working, index)
        run("mount", str(working), str(mount))
        (mount / "new").write_bytes(os.urandom(5 * MIB))
        (mount / "file-3").unlink()
        run("umount", str(mount))
        written = reinstall(image, working, index)
        assert written.written < SIZE // 10
        run("e2fsck", "-fn", str(working))
        run("mount", "-o", "ro,noload", str(working), str(mount))
        try:
            assert (mount / "file-3").read_bytes() == bytes([1, 3]) * 200_000
            assert not (mount / "new").exists()
        finally:
            run("umount", str(mount))


def test_only_uuid_independent_checksums_are_copied(tmp_path: Path) -> None:
    make_image(tmp_path / "image.img", features="metadata_csum,^metadata_csum_seed,^orphan_file")
    first = (tmp_path / "image.img").read_bytes()[:4096]
    with pytest.raises(BundleError) as caught:
        Relabel(first, uuid=uuid.uuid4(), label="writable")
    assert "metadata_csum_seed" in caught.value.hint


@pytest.mark.fault(31)
def test_a_mounted_or_held_target_is_refused_and_its_holder_named(tmp_path: Path) -> None:
    make_image(tmp_path / "image.img")
    mount = tmp_path / "mount point"
    mount.mkdir()
    with loop(tmp_path / "image.img") as device:
        run("mount", str(device), str(mount))
        try:
            with pytest.raises(SlotBusy) as caught, open_device(device, write=True):
                pass
            assert str(mount) in str(caught.value)
            with open_device(device) as reader:
                assert reader.size == SIZE
        finally:
            run("umount", str(mount))
        with open_device(device, write=True), pytest.raises(SlotBusy), open_device(device, write=True):
            pass


@pytest.mark.fault(21)
def test_a_read_only_device_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(MIB))
    with loop(tmp_path / "file") as device:
        run("blockdev", "--setro", str(device))
        with pytest.raises(DiskError), open_device(device, write=True) as opened:
            opened.write(0, b"x" * 4096)
        run("blockdev", "--setrw", str(device))


WRITER = """
import sys
from pathlib import Path
from k8r_agent.effects.device import open_device
from k8r_agent.image.bundle import Bundles
from k8r_agent.image.write import write
from k8r_agent.effects.commands import commands
from tests.fakes.simple import Listener
import time
class Slow(Listener):
    def progress(self, done, total):
        print(done, flush=True)
        time.sleep(0.02)
with Bundles(commands(), allow_unsigned=True).open(sys.argv[1]) as bundle, bundle.image() as source, \
        open_device(Path(sys.argv[2]), write=True) as device:
    print("result", write(device, source, report=Slow()).written)
"""


@pytest.mark.fault(27)
@pytest.mark.fault(1)
@pytest.mark.parametrize("after", [1, 8, 20])
def test_a_writer_that_is_killed_goes_on_where_it_was(tmp_path: Path, after: int) -> None:
    index = make_image(tmp_path / "image.img")
    raw = (tmp_path / "image.img").read_bytes()
    write_bundle(tmp_path / "bundle", raw, used=index.used, chunk_size=MIB)
    with two_slots(tmp_path) as (slot, _):
        run("mke2fs", "-q", "-t", "ext4", str(slot))
        child = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "bundle"), str(slot)],
                                 stdout=subprocess.PIPE, text=True)
        assert child.stdout
        for _line in range(after):
            child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        if after > 1:  # the first is told before anything is written
            assert run("blkid", "-p", str(slot), ok=(0, 2)) == "", "a half-written slot looks like a file system"
        with Bundles(commands(), allow_unsigned=True).open(str(tmp_path / "bundle")) as bundle:
            with bundle.image() as source, open_device(slot, write=True) as device:
                written = write(device, source, report=Listener())
                readback.verify(device, written.index, report=Listener())
        run("e2fsck", "-fn", str(slot))
        total = indexes.used_bytes(index)
        assert written.written + written.skipped >= total
        if after >= 8:
            assert written.skipped > 0, "what the killed writer had done was done again"


def test_a_bundle_that_does_not_unpack_to_its_index_leaves_no_file_system(tmp_path: Path) -> None:
    index = make_image(tmp_path / "image.img")
    raw = (tmp_path / "image.img").read_bytes()
    write_bundle(tmp_path / "bundle", raw, used=index.used, chunk_size=MIB)
    packed = tmp_path / "bundle/image.img.zst"
    damaged = bytearray(packed.read_bytes())
    stored = indexes.read((tmp_path / "bundle" / indexes.NAME).read_bytes())
    number = max(n for n, ranges in enumerate(indexes.used_ranges(stored)) if ranges)
    damaged[stored.chunks[number].offset + stored.chunks[number].length // 2] ^= 0xFF
    packed.write_bytes(damaged)
    with two_slots(tmp_path) as (slot, _):
        run("mke2fs", "-q", "-t", "ext4", str(slot))
        with Bundles(commands(), allow_unsigned=True).open(str(tmp_path / "bundle")) as bundle:
            with pytest.raises(BundleError), bundle.image() as source, open_device(slot, write=True) as device:
                write(device, source, report=Listener())
        assert run("blkid", "-p", str(slot), ok=(0, 2)) == ""


def test_the_node_is_not_left_with_minutes_of_dirty_pages(tmp_path: Path) -> None:
    """What is not yet on its way to the device stays below the watermark while 64 MiB are written."""
    with two_slots(tmp_path) as (slot, _), open_device(slot, write=True) as device:
        data, worst = os.urandom(MIB), 0.0
        for number in range(64):
            device.write(number * MIB, data)
        began = time.monotonic()
        device.flush()
        worst = time.monotonic() - began
        assert not device._dirty.bytes and not device._leaving
        assert worst < 30
