"""A state partition of another life, on disks as they are after they were flashed again: real ext4 in files."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from k8r_agent.effects import former
from k8r_agent.effects.table import read_table, write_table
from k8r_agent.effects.wholedisk import WholeDisk, open_disk
from k8r_agent.model.layout import STATE, Disk, Partition
from k8r_agent.model.partitioning import Layout, plan
from tests.fakes.flashed import MIB, flashed_gpt, flashed_mbr
from tests.fakes.medium import Medium

pytestmark = pytest.mark.skipif(shutil.which("mkfs.ext4", path="/usr/sbin:/sbin") is None, reason="no e2fsprogs")
SIZE = 2048 * MIB
TABLES: dict[str, Callable[[int], Medium]] = {"gpt": flashed_gpt, "dos": flashed_mbr}


def flash(path: Path, table: str) -> None:
    """What the image holds is written over, nothing else."""
    with path.open("r+b") as file:
        medium = TABLES[table](SIZE)
        for n, data in medium.durable.items():
            file.seek(n * medium.sector)
            file.write(data)


def seen(raw: WholeDisk, path: Path) -> Disk:
    found = read_table(raw, sector=512)
    return Disk(device=path, size=raw.size, sector=512, table=found.kind, id=found.id, partitions=found.partitions)


def planned(disk: Disk, size: int) -> Layout:
    layout = plan(disk, image_size=16 * MIB, state_size=size, role="control-plane", new_id=lambda: str(uuid.uuid4()))
    assert layout is not None
    return layout


def lived(path: Path, table: str, size: int, *, label: str = "masterpersistent") -> Partition:
    """A node of another life; its state partition."""
    with path.open("wb") as file:
        file.truncate(SIZE)
    flash(path, table)
    with open_disk(path, write=True) as raw:
        layout = planned(seen(raw, path), size)
        write_table(raw, layout.partitions, new_id=layout.id, sector=512)
    state = next(p for p in layout.partitions if p.number == STATE)
    made = path.with_name("state")
    with made.open("wb") as file:
        file.truncate(size)
    subprocess.run(["/sbin/mkfs.ext4", "-q", "-F", "-L", label, "-b", "4096", str(made)], check=True)
    subprocess.run(["dd", f"if={made}", f"of={path}", "bs=1M", f"seek={state.start // MIB}", "conv=notrunc,sparse",
                    "status=none"], check=True)
    flash(path, table)
    return state


def found(path: Path, known: tuple[int, int] | None = None) -> tuple[int, int, str] | None:
    with open_disk(path) as raw:
        place = former.find(raw, seen(raw, path), known=known)
    return (place.start, place.size, place.name) if place else None


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("size", [256, 384, 1024])
def test_it_is_found_where_it_was(tmp_path: Path, table: str, size: int) -> None:
    state = lived(tmp_path / "disk", table, size * MIB)
    assert found(tmp_path / "disk") == (state.start, size * MIB, "masterpersistent")


@pytest.mark.parametrize("table", TABLES)
def test_it_is_found_on_a_disk_that_grew(tmp_path: Path, table: str) -> None:
    path = tmp_path / "disk"
    state = lived(path, table, 384 * MIB)
    os.truncate(path, 3 * SIZE + 7 * MIB)
    assert found(path) == (state.start, 384 * MIB, "masterpersistent")


def test_a_backup_table_names_any_size_and_any_label(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    state = lived(path, "gpt", 301 * MIB, label="mine")
    assert found(path) == (state.start, 301 * MIB, "mine")
    with path.open("r+b") as file:  # a copy of the superblock is left
        file.seek(state.start)
        file.write(bytes(MIB))
    assert found(path) == (state.start, 301 * MIB, "mine")
    with path.open("r+b") as file:  # the table that named it is not
        file.seek(SIZE - 512)
        file.write(bytes(512))
    assert found(path) is None
    assert found(path, (state.start, state.size)) == (state.start, 301 * MIB, "mine")


def test_what_is_no_state_partition_is_none(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    state = lived(path, "dos", 384 * MIB, label="photos")
    assert found(path) is None
    state = lived(path, "gpt", 384 * MIB)
    with path.open("r+b") as file:
        file.seek(state.start)
        file.write(bytes(state.size))  # given up, as the error says
    assert found(path) is None and found(path, (state.start, state.size)) is None
    with path.open("r+b") as file:  # the image's own file system is none, whatever a table says
        file.seek(10 * MIB + 1024 + 0x38)
        file.write(b"\x53\xef")
    assert found(path, (9 * MIB, 8 * MIB)) is None and found(path, (state.start, SIZE)) is None


def test_of_two_lives_the_one_that_was_in_use_last(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    lived(path, "dos", 384 * MIB)
    earlier = path.read_bytes()[SIZE - 385 * MIB:SIZE - 380 * MIB]
    state = lived(path, "dos", 1024 * MIB)
    with path.open("r+b") as file:
        file.seek(SIZE - 385 * MIB)
        file.write(earlier)
        file.seek(state.start + 1024 + 0x2C)
        file.write(b"\x01\x02\x03\x04")  # when it was mounted
    assert found(path) == (state.start, 1024 * MIB, "masterpersistent")
