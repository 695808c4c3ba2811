"""What fsck.vfat makes of a boot partition after a power cut, as k8r-fsck@.service runs it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from k8r_agent.boot import assetdirs
from tests.lab.disks import DiskImage

MIB = 1 << 20
SIZE = 100 * MIB


def checked(disk: DiskImage) -> str:
    """Runs it on partition 1; what it said."""
    part = disk.path.with_name("part.img")
    disk.fat_copy(part)
    said = "".join(subprocess.run(["/usr/sbin/fsck.vfat", "-a", str(part)], capture_output=True, text=True).stdout
                   for _ in range(2))
    disk.write(disk.partitions()[1].start, part.read_bytes())
    return said


def test_clusters_without_an_owner_become_files_that_the_agent_knows(tmp_path: Path) -> None:
    disk = DiskImage(tmp_path / "disk.img")
    with disk.path.open("wb") as file:
        file.truncate(SIZE + 2 * MIB)
    subprocess.run(["/sbin/sfdisk", "-q", str(disk.path)], input=f"label: gpt\nstart=1MiB,size={SIZE // MIB}MiB\n",
                   text=True, check=True)
    subprocess.run(["/usr/sbin/mkfs.vfat", "-F", "32", "-s", "1", "--offset=2048", str(disk.path),
                    str(SIZE // 1024)], check=True, capture_output=True)
    for directory in ("image", "image/a", "image/b"):
        disk.fat_make(directory)
    disk.fat_write("image/a/vmlinuz", b"kernel" * 10_000)
    for n in range(3):
        disk.fat_write(f"image/b/{n}", bytes([n]) * 100_000)
        disk.fat_orphan(f"image/b/{n}")
    assert "Reclaimed" in checked(disk)
    found = [name for name in disk.fat_names("") if name != "image"]
    assert len(found) == 3 and all(assetdirs._SALVAGED.fullmatch(name) for name in found)
    assert disk.fat_read("image/a/vmlinuz") == b"kernel" * 10_000
    assert disk.fat_complaints(tmp_path / "work.img") == ""
