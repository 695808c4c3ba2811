"""The whole disk while its partitions are in use: table writes, and telling the kernel (BLKPG) what changed."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from k8r_agent.effects.bootfacts import KernelPartition
from k8r_agent.errors import Busy, DiskError
from k8r_agent.model.layout import Partition

_BLKPG = 0x1269  # linux/blkpg.h
_ADD, _RESIZE = 1, 3
_LOCK_WAIT = 30.0  # seconds; udev holds the lock while it probes


class _BlkpgPartition(ctypes.Structure):
    _fields_ = (("start", ctypes.c_longlong), ("length", ctypes.c_longlong), ("pno", ctypes.c_int),
                ("devname", ctypes.c_char * 64), ("volname", ctypes.c_char * 64))


class _BlkpgArg(ctypes.Structure):
    _fields_ = (("op", ctypes.c_int), ("flags", ctypes.c_int), ("datalen", ctypes.c_int), ("data", ctypes.c_void_p))


class WholeDisk:
    """The BlockDevice port on an open disk. Not exclusive: mounted partitions hold the disk."""

    def __init__(self, fd: int, path: Path) -> None:
        self.fd, self._path = fd, path
        self._size = os.lseek(fd, 0, os.SEEK_END)

    @property
    def size(self) -> int:
        return self._size

    def read(self, offset: int, length: int) -> bytes:
        with self._explained("read"):
            parts = []
            while length:
                part = os.pread(self.fd, length, offset)
                if not part:
                    raise DiskError(f"{self._path} ends before byte {offset + length}")
                parts.append(part)
                offset, length = offset + len(part), length - len(part)
            return b"".join(parts)

    def write(self, offset: int, data: bytes) -> None:
        with self._explained("write"):
            view = memoryview(data)
            while view:
                done = os.pwrite(self.fd, view, offset)
                offset, view = offset + done, view[done:]

    def flush(self) -> None:
        with self._explained("flush"):
            os.fsync(self.fd)

    def drop_cache(self) -> None:
        """The disk's own page cache; partitions have theirs."""
        os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)

    @contextlib.contextmanager
    def _explained(self, verb: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DiskError(f"cannot {verb} {self._path}", why=error.strerror or str(error),
                            hint="look at `journalctl -k`; a disk that fails must be replaced") from error


@contextlib.contextmanager
def open_disk(path: Path, *, write: bool = False) -> Iterator[WholeDisk]:
    """With `write` under the lock that keeps udev from probing a half-written table (systemd's BLOCK_DEVICE_LOCKING).

    Raises DiskError, Busy when somebody else holds that lock.
    """
    try:
        fd = os.open(path, (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise DiskError(f"cannot open {path}", why=error.strerror or str(error),
                        hint="run this as root" if error.errno == errno.EACCES else "") from error
    try:
        if write:
            _lock(fd, path)
        yield WholeDisk(fd, path)
    finally:
        os.close(fd)


def tell_kernel(disk: WholeDisk, known: tuple[KernelPartition, ...], wanted: tuple[Partition, ...]) -> None:
    """Make the kernel use `wanted` without dropping a partition: works while they are mounted. Raises DiskError when
    the kernel uses a partition with another start (then only a reboot helps)."""
    present = {p.number: p for p in known}
    for p in sorted(wanted, key=lambda p: p.number):
        old = present.get(p.number)
        if old is None:
            _blkpg(disk, _ADD, p)
        elif old.start != p.start:
            raise DiskError(f"the kernel uses another partition {p.number} than the table has",
                            why=f"it starts at {old.start}, the table says {p.start}", hint="reboot")
        elif old.size != p.size:
            _blkpg(disk, _RESIZE, p)


def _blkpg(disk: WholeDisk, operation: int, p: Partition) -> None:
    data = _BlkpgPartition(start=p.start, length=p.size, pno=p.number)
    arg = _BlkpgArg(op=operation, datalen=ctypes.sizeof(data), data=ctypes.addressof(data))
    try:
        fcntl.ioctl(disk.fd, _BLKPG, bytes(arg))
    except OSError as error:
        raise DiskError(f"the kernel does not take partition {p.number}", why=error.strerror or str(error),
                        hint="the table on the disk is right: reboot, the kernel reads it then") from error


def _lock(fd: int, path: Path) -> None:
    end = time.monotonic() + _LOCK_WAIT
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise Busy(f"another program works on {path}", why="it holds the lock of the disk",
                           hint=f"`fuser -v {path}` names it") from None
            time.sleep(0.1)
