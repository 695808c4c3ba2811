"""A partition (or, in tests and on a build host, a file) opened for reading, comparing and writing.

Whether a device may be written at all is decided in effects/disks.py; here it is only made sure that nobody else
uses it, that a slow card cannot hide minutes of unwritten data, and that a read-back comes from the medium.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import mmap
import os
import stat
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from k8r_agent.errors import DiskError, SlotBusy

DIRTY = 16 << 20  # bytes at most that were written but have not reached the device
_LOT = 2 << 20  # bytes that are handed to the device at a time
_DIRECT_PIECE = 1 << 20
_ALIGN = 4096  # of offsets and lengths of direct reads; a multiple of every logical sector in use
_BLKFLSBUF = 0x1261  # linux/fs.h: write out and forget what the page cache has of the device
_M_MMAP_THRESHOLD, _MMAP_THRESHOLD = -3, 1 << 20  # malloc.h; bytes from which memory goes back when it is freed
_SYNC_WAIT_BEFORE, _SYNC_WRITE, _SYNC_WAIT_AFTER = 1, 2, 4


class Device:
    """The BlockDevice port over a file descriptor. Reads and writes may come from several threads."""

    def __init__(self, fd: int, path: Path, *, dirty: int = DIRTY) -> None:
        self._fd, self._path, self._limit = fd, path, dirty
        self._block = stat.S_ISBLK(os.fstat(fd).st_mode)
        self._size = os.lseek(fd, 0, os.SEEK_END)  # of a block device the same as BLKGETSIZE64
        self._direct: _Direct | None = None
        self._dirty = _Range()
        self._leaving: deque[_Range] = deque()

    @property
    def size(self) -> int:
        return self._size

    def read(self, offset: int, length: int) -> bytes:
        self._within(offset, length)
        with self._errors("read", offset):
            if self._direct is not None and offset % _ALIGN == 0 and length % _ALIGN == 0:
                return self._direct.read(offset, length)
            data = os.pread(self._fd, length, offset)
            while 0 < len(data) < length:
                more = os.pread(self._fd, length - len(data), offset + len(data))
                if not more:
                    break
                data += more
        if len(data) != length:
            raise DiskError(f"{self._path}: short read at {offset}", why=f"{len(data)} of {length} bytes")
        return data

    def write(self, offset: int, data: bytes) -> None:
        self._within(offset, len(data))
        view, at = memoryview(data), offset
        with self._errors("write", offset):
            while view:
                done = os.pwrite(self._fd, view, at)
                view, at = view[done:], at + done
            self._dirty.add(offset, len(data))
            if self._dirty.bytes >= _LOT:
                self._push()

    def flush(self) -> None:
        with self._errors("flush", 0):
            os.fsync(self._fd)
        self._dirty = _Range()
        self._leaving.clear()
        self._forget()

    def drop_cache(self) -> None:
        self.flush()
        with contextlib.suppress(OSError):
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
        # Direct reads also leave the pages of a node at work in memory alone.
        self.close_direct()
        self._direct = _Direct.open(self._fd)

    def close_direct(self) -> None:
        if self._direct is not None:
            self._direct.close()
            self._direct = None

    def _push(self) -> None:
        """Start writing out this lot; wait for the oldest when too much is under way. The device is never idle and
        never far behind."""
        _sync_range(self._fd, self._dirty, _SYNC_WRITE)
        self._leaving.append(self._dirty)
        self._dirty = _Range()
        while sum(lot.bytes for lot in self._leaving) > self._limit:
            _sync_range(self._fd, self._leaving.popleft(), _SYNC_WAIT_BEFORE | _SYNC_WRITE | _SYNC_WAIT_AFTER)

    def _forget(self) -> None:
        if self._block:
            with contextlib.suppress(PermissionError):  # needs CAP_SYS_ADMIN; fsync was done above
                fcntl.ioctl(self._fd, _BLKFLSBUF, 0)

    def _within(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self._size:
            raise DiskError(f"{self._path} ends at {self._size}", why=f"{length} bytes at {offset} were asked for")

    @contextlib.contextmanager
    def _errors(self, what: str, offset: int) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            hint = "the medium is failing: replace it" if error.errno in (errno.EIO, errno.EREMOTEIO) else ""
            at = f" at {offset}" if what != "flush" else ""
            raise DiskError(f"{self._path}: {what} failed{at}", why=error.strerror or str(error),
                            hint=hint) from error


class _Range:
    """What was written since, as one span; gaps in it cost nothing."""

    def __init__(self) -> None:
        self.start, self.end, self.bytes = 0, 0, 0

    def add(self, offset: int, length: int) -> None:
        self.start = min(self.start, offset) if self.bytes else offset
        self.end = max(self.end, offset + length)
        self.bytes += length


class _Direct:
    """O_DIRECT needs aligned buffers; as many are kept as threads read at a time."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._buffers: list[mmap.mmap] = []

    @classmethod
    def open(cls, fd: int) -> _Direct | None:
        """None where it is not supported (tmpfs of older kernels): the cache was dropped, that must do."""
        try:
            direct = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
        except OSError:
            return None
        return cls(direct)

    def read(self, offset: int, length: int) -> bytes:
        buffer = self._buffers.pop() if self._buffers else mmap.mmap(-1, _DIRECT_PIECE)
        try:
            pieces: list[bytes] = []
            at = 0
            while at < length:
                with memoryview(buffer) as view, view[:min(_DIRECT_PIECE, length - at)] as part:
                    got = os.preadv(self._fd, [part], offset + at)
                if got <= 0:
                    break
                pieces.append(buffer[:got])
                at += got
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)
        finally:
            self._buffers.append(buffer)

    def close(self) -> None:
        os.close(self._fd)
        for buffer in self._buffers:
            buffer.close()


@contextlib.contextmanager
def open_device(path: Path, *, write: bool = False, dirty: int = DIRTY) -> Iterator[Device]:
    """Exclusive when `write`: a block device that is mounted or held raises SlotBusy naming who has it.

    On a clean exit of a written device everything is flushed. Raises DiskError.
    """
    _free_at_once()
    try:
        mode = os.stat(path).st_mode
        flags = (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC
        if stat.S_ISBLK(mode) and write:
            flags |= os.O_EXCL  # without O_CREAT: only for block devices, fails while a mount or device mapper has it
        elif not stat.S_ISBLK(mode) and not stat.S_ISREG(mode):
            raise DiskError(f"{path} is not a block device")
        fd = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise SlotBusy(f"{path} is in use", why=", ".join(users(path)) or "by something that does not say who",
                           hint="unmount it and try again") from error
        raise DiskError(f"cannot open {path}", why=error.strerror or str(error)) from error
    device = Device(fd, path, dirty=dirty)
    try:
        yield device
        if write:
            device.flush()
    finally:
        device.close_direct()
        os.close(fd)


def users(path: Path) -> tuple[str, ...]:
    """Who has a block device: mount points, swap, devices stacked on it."""
    number = os.stat(path).st_rdev
    name = f"{os.major(number)}:{os.minor(number)}"
    found = [f"mounted on {point}" for point in _mounts(name)]
    with contextlib.suppress(OSError):
        found += [f"held by {holder.name}" for holder in sorted(Path(f"/sys/dev/block/{name}/holders").iterdir())]
    with contextlib.suppress(OSError):
        for line in Path("/proc/swaps").read_text().splitlines()[1:]:
            with contextlib.suppress(OSError):
                if os.stat(line.split()[0]).st_rdev == number:
                    found.append("used as swap")
    return tuple(found)


def _mounts(number: str) -> Iterator[str]:
    with contextlib.suppress(OSError), open("/proc/self/mountinfo", errors="surrogateescape") as table:
        for line in table:
            fields = line.split()
            if len(fields) > 4 and fields[2] == number:
                yield fields[4].replace("\\040", " ").replace("\\011", "\t")


_libc = ctypes.CDLL(None, use_errno=True)


@functools.cache
def _free_at_once() -> None:
    """Whoever opens a device moves chunks of megabytes. glibc learns from the first one that is freed to keep such
    memory for later (M_MMAP_THRESHOLD grows), in each thread's arena: 9 MiB of 64. Said once, it no longer learns."""
    with contextlib.suppress(AttributeError):  # another C library
        _libc.mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD)


def _sync_range(fd: int, span: _Range, flags: int) -> None:
    """sync_file_range(2). Where the C library has none, fdatasync does more than enough."""
    call = getattr(_libc, "sync_file_range", None)
    if call is None:
        os.fdatasync(fd)
        return
    call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    if call(fd, span.start, span.end - span.start, flags) != 0:
        code = ctypes.get_errno()
        if code in (errno.ESPIPE, errno.ENOSYS, errno.EINVAL):
            os.fdatasync(fd)
        else:
            raise OSError(code, os.strerror(code))
