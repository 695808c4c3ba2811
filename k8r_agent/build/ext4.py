"""The image's file system: made from a tree without mounting anything, byte for byte the same each time."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from k8r_agent.build.seeds import derive
from k8r_agent.effects.commands import FullCommands
from k8r_agent.errors import BuildError, CommandFailed
from k8r_agent.model.layout import IMAGE, LABELS
from k8r_agent.model.units import format_size

BLOCK = 4096
JOURNAL_MIB = 8  # small: it is rewritten at each reinstall
_STEP = 256 << 20
# metadata_csum_seed: a new UUID then changes 6 blocks instead of every one with a checksum. orphan_file, where
# mke2fs knows it, would hold per-inode checksums that depend on the mount.
_FEATURES = "metadata_csum,metadata_csum_seed,64bit"
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")
_HEAD = re.compile(r"^(Block count|Inode count|First inode):\s+(\d+)$", re.M)


def tree_size(tree: Path) -> int:
    """Bytes that the tree's files and directories take in 4 KiB blocks; a hard-linked file once."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for directory, directories, files in os.walk(tree):
        for name in (*files, *directories):
            info = os.lstat(os.path.join(directory, name))
            if info.st_nlink > 1 and (info.st_dev, info.st_ino) in seen:
                continue
            seen.add((info.st_dev, info.st_ino))
            total += -(-info.st_size // BLOCK) * BLOCK
    return total


def automatic_size(content: int) -> int:
    """Room for the content, metadata and some updates in place; a multiple of 256 MiB, at least 512 MiB."""
    wanted = content * 5 // 4 + (96 << 20)
    return max(2 * _STEP, -(-wanted // _STEP) * _STEP)


def make(tree: Path, image: Path, *, size: int, release: int, epoch: int, log: Path, commands: FullCommands) -> None:
    """A file of `size` bytes. Raises BuildError when the tree does not fit."""
    image.unlink(missing_ok=True)
    with image.open("wb") as file:
        file.truncate(size)
    config = image.with_suffix(".conf")  # the host's taste in features must not reach the image
    config.write_text("[fs_types]\n\text4 = {\n\t\tinode_size = 256\n\t}\n")
    env = {"E2FSPROGS_FAKE_TIME": str(epoch), "SOURCE_DATE_EPOCH": str(epoch), "LC_ALL": "C", "TZ": "UTC",
           "MKE2FS_CONFIG": str(config)}
    features = _FEATURES + (",^orphan_file" if _knows_orphan_file(commands) else "")
    try:
        commands.run(
            ["mke2fs", "-q", "-F", "-t", "ext4", "-b", str(BLOCK), "-I", "256", "-m", "1", "-i", "16384",
             "-J", f"size={JOURNAL_MIB}", "-L", LABELS[IMAGE], "-U", str(derive("checksums")),
             "-O", f"has_journal,ext_attr,resize_inode,dir_index,filetype,extent,flex_bg,sparse_super,large_file,"
                   f"huge_file,dir_nlink,extra_isize,{features}",
             "-E", f"hash_seed={derive('directories')},lazy_itable_init=0,lazy_journal_init=0,nodiscard,"
                   "root_owner=0:0",
             "-d", str(tree), str(image)], timeout=900, log=log, env=env)
    except CommandFailed as error:
        full = "Could not allocate" in error.why or "No space" in error.why or "ENOSPC" in error.why
        raise BuildError(f"the tree could not be put into a file system of {format_size(size)}", why=error.why,
                         hint="give a larger --size" if full else error.hint) from None
    finally:
        config.unlink()
    # The checksums are seeded by the UUID that mke2fs saw. The same one for all releases, and the release's own only
    # now, leaves two releases different in what is different: 13 000 inodes would carry new checksums otherwise.
    commands.run(["tune2fs", "-U", str(derive("image", release)), str(image)], log=log, env=env)
    _fix_times(image, epoch=epoch, log=log, commands=commands, env=env)


def _knows_orphan_file(commands: FullCommands) -> bool:
    version = re.search(r"mke2fs (\d+)\.(\d+)", commands.run(["mke2fs", "-V"]).stderr)
    return version is not None and (int(version[1]), int(version[2])) >= (1, 47)


def _fix_times(image: Path, *, epoch: int, log: Path, commands: FullCommands, env: dict[str, str]) -> None:
    """mke2fs 1.47.0 copies atime and ctime of the tree's files, which are those of the build: set them all."""
    script = image.with_suffix(".debugfs")
    inodes = used_inodes(dump(image, commands))
    script.write_text("".join(f"sif <{inode}> {field} @{epoch}\n"
                              for inode in inodes for field in ("atime", "ctime", "crtime")))
    try:
        commands.run(["debugfs", "-w", "-f", str(script), str(image)], timeout=300, log=Path(os.devnull), env=env)
        commands.run(["e2fsck", "-f", "-n", str(image)], timeout=300, log=log, env=env)
    finally:
        script.unlink()


def dump(image: Path, commands: FullCommands) -> str:
    return commands.run(["dumpe2fs", str(image)], timeout=120).stdout


def _ranges(text: str) -> Iterator[tuple[int, int]]:
    """`"5-9, 12"` → (5, 9), (12, 12)."""
    for match in _RANGE.finditer(text):
        yield int(match[1]), int(match[2] or match[1])


def _free(dumped: str, what: str) -> list[tuple[int, int]]:
    lines = re.findall(rf"^  Free {what}: (.*)$", dumped, re.M)
    return sorted(pair for line in lines for pair in _ranges(line))


def _head(dumped: str) -> dict[str, int]:
    found = {name: int(value) for name, value in _HEAD.findall(dumped)}
    if len(found) != 3:
        raise BuildError("dumpe2fs says nothing of blocks and inodes", why="is this an ext4 file system?")
    return found


def _gaps(free: list[tuple[int, int]], first: int, end: int) -> list[tuple[int, int]]:
    """What is not free in [first, end), as (start, count)."""
    used, at = [], first
    for start, last in free:
        if start > at:
            used.append((at, start - at))
        at = max(at, last + 1)
    if at < end:
        used.append((at, end - at))
    return used


def used_blocks(dumped: str) -> tuple[tuple[int, int], ...]:
    """Extents (first block, count) that the block bitmaps call used, ascending, from dumpe2fs's text."""
    return tuple(_gaps(_free(dumped, "blocks"), 0, _head(dumped)["Block count"]))


def used_inodes(dumped: str) -> list[int]:
    """Inodes of files and directories: the root, and everything from lost+found on that is not free."""
    head = _head(dumped)
    extents = _gaps(_free(dumped, "inodes"), 1, head["Inode count"] + 1)
    return [inode for start, count in extents for inode in range(start, start + count)
            if inode == 2 or inode >= head["First inode"]]


def block_count(dumped: str) -> int:
    return _head(dumped)["Block count"]
