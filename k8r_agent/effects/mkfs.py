"""File systems: blkid, mkfs.ext4, e2fsck, and the kernel's own online resize."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import struct
from pathlib import Path

from k8r_agent.effects import wholedisk
from k8r_agent.errors import CommandFailed, DiskError
from k8r_agent.model import superblock
from k8r_agent.ports.commands import Commands

_NOTHING, _SEVERAL = 2, 8  # exit codes of blkid -p
_UNOPENED, _COPY = 8, "32768"  # exit code of e2fsck; block of the first copy of a superblock
# A feature that a newer mke2fs makes by default and an older slot's kernel cannot mount has no place on a partition
# that both slots use.
_SHARED_FEATURES = "^metadata_csum_seed"
_SINCE_1_47 = ",^orphan_file"
_RESIZE_FS = 0x40086610  # EXT4_IOC_RESIZE_FS, fs/ext4/ext4.h; what systemd-growfs uses
HIDDEN = Path("/run/k8r/grow")


class Filesystems:
    def __init__(self, commands: Commands) -> None:
        self._commands = commands

    def signature(self, device: Path) -> str:
        """Type and label of what libblkid finds, without its cache; "" for nothing. An ext4 superblock whose checksum
        is wrong counts, and so does one of which only a copy is left: libblkid would call them nothing."""
        code, values = self._probe(device)
        if code == _SEVERAL:
            return "several signatures"
        if values.get("TYPE") or values.get("PTTYPE"):
            return f"{values.get('TYPE') or values['PTTYPE'] + ' table'} {values.get('LABEL', '')}".strip()
        damaged = self._superblock(device) or self.copy(device)
        return f"damaged ext4 {damaged.label}".strip() if damaged else ""

    def copy(self, device: Path) -> superblock.Superblock | None:
        """A copy of an ext4 superblock, None when there is none."""
        with wholedisk.open_disk(device) as raw:
            return superblock.find_copy(raw.read, raw.size)

    def uuid(self, device: Path) -> str:
        """Also of an ext4 superblock whose checksum is wrong, which not every libblkid takes for one."""
        values = self._probe(device)[1]
        if values.get("TYPE") or values.get("PTTYPE"):
            return values.get("UUID", "")
        found = self._superblock(device)
        return found.uuid if found else ""

    def mend(self, device: Path) -> str:
        """What an unmounted ext4 may be mended of without a person; says why it cannot be, "" when it is well. A
        superblock that a power cut tore comes from its copy, as in the initramfs (scripts/k8r, k8r_check)."""
        check = ["e2fsck", "-p"]
        result = self._commands.run([*check, os.fspath(device)], ok=range(256), timeout=1800)
        if result.code == _UNOPENED and self._superblock(device):
            result = self._commands.run([*check, "-b", _COPY, "-B", "4096", os.fspath(device)], ok=range(256),
                                        timeout=1800)
        # 0 clean, 1 mended; 2 asks for a reboot because of a mounted root, which this is not
        return (result.stdout + result.stderr).strip()[-400:] or f"code {result.code}" if result.code & ~3 else ""

    @staticmethod
    def _superblock(device: Path) -> superblock.Superblock | None:
        with wholedisk.open_disk(device) as raw:
            return superblock.parse(raw.read(superblock.OFFSET, superblock.LENGTH)) if raw.size >= 2048 else None

    def make(self, device: Path, *, label: str, uuid: str, over: bool = False) -> None:
        """ext4 that every release can mount, all of it on the medium when this returns. Raises CommandFailed."""
        features = _SHARED_FEATURES + (_SINCE_1_47 if self._mke2fs_version() >= (1, 47) else "")
        force = ["-F"] if over else []
        now = "lazy_itable_init=0,lazy_journal_init=0"
        self._commands.run(["mkfs.ext4", "-q", *force, "-L", label, "-U", uuid, "-b", "4096", "-m", "1",
                            "-e", "remount-ro", "-O", features, "-E", now, os.fspath(device)], timeout=1800)
        self.flush(device)
        with wholedisk.open_disk(device) as raw:
            found = superblock.parse(raw.read(superblock.OFFSET, superblock.LENGTH))
        if found is None or found.uuid != uuid or found.label != label:
            raise DiskError(f"{device} does not hold the file system that was just made",
                            why="read back differently", hint="the disk is failing: replace it")

    def flush(self, device: Path) -> None:
        with wholedisk.open_disk(device, write=True) as raw:
            raw.flush()
            raw.drop_cache()

    def clean(self, device: Path) -> bool:
        """Whether a full read-only check finds nothing."""
        return self._commands.run(["e2fsck", "-fn", os.fspath(device)], ok=range(256), timeout=1800).code == 0

    def grow_online(self, device: Path, mounted_at: Path, *, hidden: Path = HIDDEN) -> None:
        """Grow a mounted ext4 to its partition; the kernel journals each step. Raises DiskError.

        resize2fs would use the first mount it finds, and in the runner's mount namespace that one is read-only: then
        the file system is mounted a second time, which nobody else sees.
        """
        with wholedisk.open_disk(device) as raw:
            found = superblock.parse(raw.read(superblock.OFFSET, superblock.LENGTH))
            blocks = raw.size // found.block_size if found else 0
        try:
            _resize(mounted_at, blocks)
        except OSError as error:
            if error.errno != errno.EROFS:
                raise _not_grown(device, error) from error
            hidden.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._commands.run(["mount", "-t", "ext4", os.fspath(device), os.fspath(hidden)])
            try:
                _resize(hidden, blocks)
            except OSError as again:
                raise _not_grown(device, again) from again
            finally:
                with contextlib.suppress(CommandFailed):
                    self._commands.run(["umount", os.fspath(hidden)])

    def _probe(self, device: Path) -> tuple[int, dict[str, str]]:
        result = self._commands.run(["blkid", "-p", "-o", "export", os.fspath(device)], ok=(0, _NOTHING, _SEVERAL))
        pairs = (line.split("=", 1) for line in result.stdout.splitlines() if "=" in line)
        return result.code, {key: value.replace("\\ ", " ") for key, value in pairs}

    def _mke2fs_version(self) -> tuple[int, ...]:
        result = self._commands.run(["mke2fs", "-V"], ok=range(256))
        match = re.search(r"mke2fs (\d+)\.(\d+)", result.stderr + result.stdout)
        return (int(match[1]), int(match[2])) if match else (1, 0)


def _resize(mounted_at: Path, blocks: int) -> None:
    fd = os.open(mounted_at, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _RESIZE_FS, struct.pack("@Q", blocks))
    finally:
        os.close(fd)


def _not_grown(device: Path, error: OSError) -> DiskError:
    return DiskError(f"cannot grow the file system on {device}", why=error.strerror or str(error),
                     hint="`journalctl -k` says more; the system runs on, with less space")
