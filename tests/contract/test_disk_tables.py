"""Tables as other programs read them: sfdisk and sgdisk, on the final table and on torn ones."""

from __future__ import annotations

import json
import subprocess
import uuid
from pathlib import Path

import pytest

from k8r_agent.effects.table import read_table, write_table
from k8r_agent.effects.wholedisk import open_disk
from k8r_agent.model.layout import Partition
from k8r_agent.model.partitioning import Layout, plan
from tests.fakes import tablereader
from tests.fakes.flashed import MIB, as_disk, flashed_gpt, flashed_mbr, to_file
from tests.fakes.medium import Medium, cuts

SIZE = 64 * MIB


def wanted(medium: Medium) -> Layout:
    layout = plan(as_disk(medium), image_size=12 * MIB, state_size=4 * MIB, role="worker",
                  new_id=lambda: str(uuid.uuid4()))
    assert layout is not None
    return layout


def sfdisk(path: Path) -> dict[str, object]:
    done = subprocess.run(["sfdisk", "-J", str(path)], capture_output=True, check=True)
    table: dict[str, object] = json.loads(done.stdout)["partitiontable"]
    return table


def as_sfdisk_says(table: dict[str, object], sector: int = 512) -> set[tuple[object, ...]]:
    parts = table["partitions"]
    assert isinstance(parts, list)
    return {(int(p["node"][-1]), p["start"] * sector, p["size"] * sector, p["type"].lower(),
             p.get("uuid", "").lower(), p.get("name", "")) for p in parts}


def as_we_say(partitions: tuple[Partition, ...], *, gpt: bool = True) -> set[tuple[object, ...]]:
    return {(p.number, p.start, p.size, p.type, p.uuid if gpt else "", p.name) for p in partitions}


def test_gpt(tmp_path: Path) -> None:
    path = to_file(flashed_gpt(SIZE, leftovers=True), tmp_path / "disk1")
    layout = wanted(flashed_gpt(SIZE))
    assert as_sfdisk_says(sfdisk(path)) == as_we_say(as_disk(flashed_gpt(SIZE)).partitions)
    with open_disk(path, write=True) as disk:
        found = write_table(disk, layout.partitions, new_id=layout.id, sector=512)
    assert not found.fault
    table = sfdisk(path)
    assert table["id"] == layout.id.upper() and table["label"] == "gpt"
    assert as_sfdisk_says(table) == as_we_say(layout.partitions)
    verified = subprocess.run(["sgdisk", "-v", str(path)], capture_output=True, text=True, check=True).stdout
    assert "No problems found" in verified, verified
    assert subprocess.run(["sfdisk", "-V", str(path)], capture_output=True).returncode == 0


def test_dos(tmp_path: Path) -> None:
    medium = flashed_mbr(SIZE)
    path = to_file(medium, tmp_path / "disk1")
    layout = wanted(medium)
    with open_disk(path, write=True) as disk:
        write_table(disk, layout.partitions, new_id=layout.id, sector=512)
    table = sfdisk(path)
    assert table["id"] == layout.id and table["label"] == "dos"
    assert as_sfdisk_says(table) == as_we_say(layout.partitions, gpt=False)


@pytest.mark.slow
def test_torn_tables_are_readable_by_sgdisk(tmp_path: Path) -> None:
    """sgdisk, too, finds one of the two tables in every torn state; sfdisk warns and uses the backup."""
    before = flashed_gpt(SIZE, leftovers=True)
    after = before.copy()
    layout = wanted(after)
    write_table(after, layout.partitions, new_id=layout.id, sector=512)
    states = 0
    for torn in cuts(before, after.epochs, samples=0, exhaustive=4):
        if states % 3:
            states += 1
            continue
        states += 1
        path = to_file(torn, tmp_path / "disk1")
        seen = tablereader.linux(torn)
        assert seen
        says = as_sfdisk_says(sfdisk(path))
        ours = read_table(torn, sector=512)
        assert says == as_we_say(ours.partitions) and len(says) == len(seen[1])
    print(f"\n{states} torn states, every third read by sfdisk")
