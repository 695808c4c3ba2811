"""Where the files of a bundle lie: a directory, or an HTTP(S) prefix."""

from __future__ import annotations

import errno
import os
import stat
from typing import Protocol
from urllib.parse import urlsplit

from k8r_agent.effects.http import Http, HttpFile, Patience
from k8r_agent.errors import BundleError, FetchError, UsageError
from k8r_agent.image.sources import Reader


class Place(Protocol):
    @property
    def dear(self) -> bool:
        """Is it behind a network?"""

    def small(self, name: str, limit: int) -> bytes | None:
        """A whole small file; None when there is none. Raises FetchError."""

    def size(self, name: str) -> int | None: ...

    def open(self, name: str, size: int) -> ClosableReader: ...

    def close(self) -> None: ...


class ClosableReader(Reader, Protocol):
    def close(self) -> None: ...


def place(source: str, *, ca_file: str = "", patience: Patience | None = None) -> Place:
    """Raises UsageError for what is neither, FetchError when a directory cannot be opened."""
    if source.startswith("/"):
        return Directory(source)
    try:
        parts = urlsplit(source)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and not (parts.query or parts.fragment)
    except ValueError:  # half an IPv6 address
        good = False
    if not good:
        raise UsageError(f"{source!r} is neither an absolute directory nor an http:// or https:// prefix")
    return Web(Http(source, ca_file=ca_file, patience=patience))


class Directory:
    """Files are opened relative to the directory and links are not followed."""

    dear = False

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise FetchError(f"{path} cannot be opened", why=error.strerror or str(error),
                             hint="the source is a directory that holds manifest.toml") from error

    def close(self) -> None:
        os.close(self._fd)

    def small(self, name: str, limit: int) -> bytes | None:
        file = self._file(name)
        if file is None:
            return None
        try:
            if file.size > limit:
                raise FetchError(f"{self._path}/{name} is too large", why=f"{file.size} bytes, at most {limit}")
            return file.read(0, file.size)
        finally:
            file.close()

    def size(self, name: str) -> int | None:
        file = self._file(name)
        if file is None:
            return None
        file.close()
        return file.size

    def open(self, name: str, size: int) -> LocalFile:
        file = self._file(name)
        if file is None:
            raise BundleError(f"{self._path}/{name} is missing", why="the manifest lists it")
        if file.size != size:
            file.close()
            raise BundleError(f"{self._path}/{name} has {file.size} bytes", why=f"the manifest says {size}",
                              hint="the copy is incomplete")
        return file

    def _file(self, name: str) -> LocalFile | None:
        path = f"{self._path}/{name}"
        try:  # without O_NONBLOCK a FIFO would be waited for
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._fd)
        except FileNotFoundError:
            return None
        except OSError as error:
            why = "it is a link" if error.errno == errno.ELOOP else error.strerror or str(error)
            raise FetchError(f"{path} cannot be read", why=why) from error
        state = os.fstat(fd)
        if not stat.S_ISREG(state.st_mode):
            os.close(fd)
            raise FetchError(f"{path} cannot be read", why="not a plain file")
        return LocalFile(fd, path, state.st_size)


class LocalFile:
    def __init__(self, fd: int, path: str, size: int) -> None:
        self._fd, self._path, self.size = fd, path, size

    def close(self) -> None:
        os.close(self._fd)

    def read(self, offset: int, length: int) -> bytes:
        try:
            data = os.pread(self._fd, length, offset)
            while len(data) < length and (more := os.pread(self._fd, length - len(data), offset + len(data))):
                data += more
        except OSError as error:
            raise FetchError(f"{self._path} cannot be read at {offset}", why=error.strerror or str(error)) from error
        if len(data) != length:
            raise BundleError(f"{self._path} became shorter while it was read")
        return data

    def again(self, offset: int, length: int) -> bytes:
        return self.read(offset, length)


class Web:
    dear = True

    def __init__(self, http: Http) -> None:
        self._http = http

    def close(self) -> None:
        self._http.close()

    def small(self, name: str, limit: int) -> bytes | None:
        return self._http.small(name, limit, optional=True)

    def size(self, name: str) -> int | None:
        return self._http.size(name)

    def open(self, name: str, size: int) -> WebFile:
        return WebFile(self._http.open(name, size))


class WebFile:
    def __init__(self, file: HttpFile) -> None:
        self._file, self.size = file, file.size

    def close(self) -> None:
        self._file.close()

    def read(self, offset: int, length: int) -> bytes:
        return self._file.read(offset, length)

    def again(self, offset: int, length: int) -> bytes:
        self._file.forget()
        return self._file.read(offset, length)
