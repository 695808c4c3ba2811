"""The FAT boot partition. What is durable and atomic on Linux' vfat was measured, not assumed:

- overwriting one sector in place leaves the old or the new content, whatever the order in which sectors reach the
  medium; truncating and writing does not;
- rename() and fsync() of the directory is *not* durable; RENAME_EXCHANGE and fsync() of the file itself is, and
  touches no FAT sector;
- syncfs() writes everything out and does not flush the medium's cache; fsync() of a directory does;
- mkdir() and rmdir() are several sectors in any order. A directory whose cluster was never taken cannot be opened any
  more (EIO), and one whose cluster was never cleared lists whatever lay there: unlinking that could free the clusters
  of a running kernel. So directories are never removed, and get their name when they are durable;
- a read that comes from the page cache proves nothing, so every effect is read back after the cache was dropped.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import mmap
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from k8r_agent.errors import BootError, ReadBackMismatch, Refused
from k8r_agent.model.boot import Content
from k8r_agent.ports.bootfiles import SECTOR

MOUNT = Path("/boot/firmware")
LOCK = Path("/run/k8r/bootfiles.lock")
_TEMPORARY = "k8r.tmp"  # a short name: one directory entry; no loader reads it
_PIECE = 1 << 20  # bytes read at a time
_UNSYNCED = 8 << 20  # bytes written at most before the medium is waited for
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT = 0x1, 0x2, 0x4, 0x8, 0x20


class MountedBootFiles:
    """Raises BootError with the errno's text, ReadBackMismatch when the medium returns something else.

    With `remount=False` the directory is taken as it is (tests; a file system that is not a mount of its own).
    """

    def __init__(self, root: Path = MOUNT, *, lock: Path = LOCK, remount: bool = True) -> None:
        self._root, self._lock, self._remount = root, lock, remount
        self._depth = 0
        self._held = -1

    # reading

    def read(self, path: str) -> bytes | None:
        """From the medium, not from the cache."""
        fd = self._opened(path)
        return None if fd is None else b"".join(self._reading(path, fd))

    def pieces(self, path: str) -> Iterator[bytes]:
        fd = self._opened(path)
        if fd is None:
            raise BootError(f"{path} is not on the boot partition")
        yield from self._reading(path, fd)

    def content(self, path: str) -> Content | None:
        fd = self._opened(path)
        return None if fd is None else Content.of(self._reading(path, fd))

    def _opened(self, path: str) -> int | None:
        try:
            return os.open(self._at(path), os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            self._assert_mounted()
            return None
        except OSError as error:
            raise _failed("read", path, error) from error

    def _reading(self, path: str, fd: int) -> Iterator[bytes]:
        try:
            yield from _uncached(fd)
        except OSError as error:
            raise _failed("read", path, error) from error
        finally:
            os.close(fd)

    def names(self, directory: str) -> tuple[str, ...]:
        try:
            return tuple(sorted(os.listdir(self._at(directory) if directory else self._root)))
        except (FileNotFoundError, NotADirectoryError):
            self._assert_mounted()
            return ()
        except OSError as error:
            raise _failed("read", directory, error) from error

    def sizes(self, directory: str) -> tuple[int, ...]:
        try:
            at = self._at(directory)
            files = [at] if at.is_file() else [at / name for name in self.names(directory)]
            return tuple(os.stat(file).st_size for file in files)
        except OSError as error:
            raise _failed("read", directory, error) from error

    def free(self) -> int:
        try:
            found = os.statvfs(self._root)
        except OSError as error:
            raise _failed("read", ".", error) from error
        return found.f_bavail * found.f_frsize

    def _assert_mounted(self) -> None:
        """A partition that is not there must not read as one whose files say nothing: that would be a decision."""
        if self._remount and not os.path.ismount(self._root):
            raise BootError(f"the boot partition is not mounted at {self._root}",
                            hint="`journalctl -b -u boot-firmware.mount` says why")

    # writing

    @contextlib.contextmanager
    def writable(self) -> Iterator[None]:
        if self._depth == 0:
            self._open()
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                self._close()

    def write_sector(self, path: str, data: bytes) -> None:
        assert self._depth and len(data) == SECTOR, path
        with self._complaint("write", path):
            fd = os.open(self._at(path), os.O_WRONLY | os.O_CLOEXEC)
            try:
                if os.fstat(fd).st_size != SECTOR:
                    raise BootError(f"{path} is not a file of one sector", why=f"{os.fstat(fd).st_size} bytes")
                if os.pwrite(fd, data, 0) != SECTOR:
                    raise BootError(f"{path} was not written as a whole")
                os.fdatasync(fd)
            finally:
                os.close(fd)
        self._verify(path, Content.of([data]))

    def put(self, path: str, data: bytes) -> None:
        self.put_pieces(path, [data])

    def put_pieces(self, path: str, pieces: Iterable[bytes]) -> Content:
        assert self._depth, path
        target = self._at(path)
        temporary = target.parent / _TEMPORARY
        with self._complaint("write", path):
            self._make_directory(target.parent)
            temporary.unlink(missing_ok=True)
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                written = Content.of(_writing(fd, pieces))
                os.fsync(fd)
            finally:
                os.close(fd)
        self._verify(str(temporary.relative_to(self._root)), written)
        with self._complaint("write", path):
            if target.exists():
                _exchange(temporary, target)
                _sync(target)
                temporary.unlink(missing_ok=True)
            else:
                temporary.rename(target)
            _sync(target)
            self._sync_all()
        self._verify(path, written)
        return written

    def rename(self, old: str, new: str) -> None:
        assert self._depth, old
        with self._complaint("rename", old):
            self._at(old).rename(self._at(new))
            _sync(self._at(new))
            self._sync_all()

    def remove(self, path: str) -> None:
        assert self._depth, path
        target = self._at(path)
        with self._complaint("remove", path):
            if target.is_dir():
                for found in tuple(os.scandir(target)):
                    if not found.is_dir():
                        os.unlink(found)
            else:
                target.unlink(missing_ok=True)
            self._sync_all()

    # below

    def _at(self, path: str) -> Path:
        assert path and not path.startswith("/") and ".." not in path.split("/"), path
        return self._root / path

    def _open(self) -> None:
        """The lock: another process that is done must not make the partition read-only under our hands."""
        with self._complaint("open", "."):
            self._lock.parent.mkdir(parents=True, exist_ok=True)
            self._held = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._held, fcntl.LOCK_EX)
            try:
                if self._remount:
                    self._mount(0)
            except (OSError, BootError):
                self._release()
                raise

    def _close(self) -> None:
        try:
            with self._complaint("write", "."):
                self._sync_all()
        finally:
            if self._remount:
                with contextlib.suppress(OSError, BootError):  # a file that somebody else has open for writing
                    self._mount(_MS_RDONLY)
            self._release()

    def _release(self) -> None:
        os.close(self._held)
        self._held = -1

    def _mount(self, flags: int) -> None:
        if not os.path.ismount(self._root):
            raise BootError(f"the boot partition is not mounted at {self._root}",
                            hint="systemctl start boot-firmware.mount; k8r-agent status")
        flags |= _MS_REMOUNT | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
        from ctypes import c_ulong

        if number := _libc("mount", None, os.fsencode(self._root), None, c_ulong(flags), None):
            raise OSError(number, os.strerror(number))

    def _make_directory(self, directory: Path) -> None:
        if directory.is_dir():
            return
        self._make_directory(directory.parent)
        there = {name.lower() for name in os.listdir(self._root)}
        # What a cut left of an earlier one is not touched: nobody knows whether its cluster was ever cleared. It lies
        # at the top, behind the slots' directories as a golden disk has them: of two owners of a cluster fsck.vfat
        # cuts the second one short.
        free = next(name for number in itertools.count() if (name := f"k8r-{number}.new") not in there)
        temporary = self._root / free
        temporary.mkdir()
        self._sync_all()
        temporary.rename(directory)
        self._sync_all()

    def _sync_all(self) -> None:
        flush(self._root)

    def _verify(self, path: str, written: Content) -> None:
        found = self.content(path)
        if found != written:
            raise ReadBackMismatch(f"{path} on the boot partition does not hold what was written",
                                   why=f"{found.size} bytes, {written.size} written" if found else "it is gone",
                                   hint="the medium is failing: replace it before the next reboot")

    @contextlib.contextmanager
    def _complaint(self, verb: str, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _failed(verb, path, error) from error


def flush(directory: Path) -> None:
    """Everything written to its file system is on the medium when this returns. Raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if number := _libc("syncfs", fd):
            raise OSError(number, os.strerror(number))
        os.fsync(fd)
    finally:
        os.close(fd)


def _failed(verb: str, path: str, error: OSError) -> BootError | Refused:
    if error.errno == errno.ENOSPC:
        return Refused(f"{path}: the boot partition is full", hint="remove what does not belong to k8r")
    hint = "a reboot checks it before it is mounted; if that does not help, the medium fails: k8r-recovery(7)"
    return BootError(f"cannot {verb} {path} on the boot partition", why=error.strerror or str(error),
                     hint=hint if error.errno == errno.EIO else "")


def _writing(fd: int, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Writes each piece, passes it on, and sees to it that no more than a few wait for the medium: of a whole initrd
    in the page cache a slow card would make one long fsync."""
    waiting = 0
    for piece in pieces:
        view = memoryview(piece)
        while view:
            view = view[os.write(fd, view):]
        waiting += len(piece)
        if waiting >= _UNSYNCED:
            os.fdatasync(fd)
            waiting = 0
        yield piece


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _libc(function: str, *arguments: object) -> int:
    """Returns the errno, 0 for success. Imported here: reading, which is all that `status` does, needs none of it."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    return ctypes.get_errno() if getattr(libc, function)(*arguments) else 0


def _exchange(one: Path, other: Path) -> None:
    """Old or new under the target's name at every instant. vfat before Linux 6.0 cannot: plain rename, which leaves
    old or new as long as the medium keeps the order of writes."""
    number = _libc("renameat2", _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    if number == 0:
        _sync(one)
        return
    if number not in (errno.EINVAL, errno.ENOSYS):
        raise OSError(number, os.strerror(number))
    one.rename(other)


def _uncached(fd: int) -> Iterator[bytes]:
    """O_DIRECT where the file system has it; else the cached pages are dropped first."""
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    try:
        direct = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    except OSError:
        direct = -1
    size, at = os.fstat(fd).st_size, 0
    try:
        with mmap.mmap(-1, _PIECE) as buffer:  # page-aligned, as O_DIRECT wants it
            while at < size:
                try:
                    count = os.preadv(fd if direct < 0 else direct, [buffer], at)
                except OSError:
                    if direct < 0:
                        raise
                    os.close(direct)
                    direct = -1
                    continue
                if count == 0:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                at += count
                yield buffer[:count]
    finally:
        if direct >= 0:
            os.close(direct)
