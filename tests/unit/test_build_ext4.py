"""What is read out of dumpe2fs, and how large an image becomes."""

from __future__ import annotations

from pathlib import Path

import pytest

from k8r_agent.build import ext4
from k8r_agent.errors import BuildError

MIB = 1 << 20
DUMP = """\
Filesystem volume name:   image
Inode count:              64
Block count:              100
Free blocks:              57
First inode:              11
Group 0: (Blocks 0-49)
  Free blocks: 20-29, 45
  Free inodes: 14-30, 32
Group 1: (Blocks 50-99) [INODE_UNINIT, BLOCK_UNINIT]
  Free blocks: 54-99
  Free inodes: 33-64
"""


def test_used_blocks_are_what_no_group_calls_free() -> None:
    assert ext4.used_blocks(DUMP) == ((0, 20), (30, 15), (46, 8))


def test_used_inodes_are_the_root_and_everything_from_lost_and_found_on() -> None:
    assert ext4.used_inodes(DUMP) == [2, 11, 12, 13, 31]


def test_a_full_group_has_an_empty_list() -> None:
    full = DUMP.replace("Free blocks: 20-29, 45", "Free blocks: ")
    assert ext4.used_blocks(full) == ((0, 54),)


def test_a_file_system_without_free_blocks_at_its_end() -> None:
    assert ext4.used_blocks(DUMP.replace("54-99", "54-98"))[-1] == (99, 1)


def test_what_is_no_file_system_is_said() -> None:
    with pytest.raises(BuildError, match="ext4"):
        ext4.used_blocks("dumpe2fs: Bad magic number in super-block\n")


@pytest.mark.parametrize(("content", "size"), [
    (0, 512), (300 * MIB, 512), (333 * MIB, 768), (400 * MIB, 768), (1000 * MIB, 1536)])
def test_automatic_size_leaves_room(content: int, size: int) -> None:
    assert ext4.automatic_size(content) == size * MIB
    assert ext4.automatic_size(content) > content * 5 // 4


def test_tree_size_counts_a_hard_link_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 5000)
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    assert ext4.tree_size(tmp_path) == 8192
