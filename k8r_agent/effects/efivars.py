"""UEFI variables of the boot loader interface, through efivarfs."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from k8r_agent.errors import BootError

VENDOR = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"  # systemd's Boot Loader Interface
DIRECTORY = Path("/sys/firmware/efi/efivars")
_ATTRIBUTES = struct.pack("<I", 0x7)  # non-volatile, boot service access, runtime access
# While a system runs EDK II only appends: 2,000 changes of a variable fill the flash of a virtual machine.
FULL = ("reboot the node: firmwares make room for variables only when they boot; look for old dumps of the kernel in "
        "/sys/fs/pstore, which take that room for good")
_GETFLAGS, _SETFLAGS, _IMMUTABLE = 0x80086601, 0x40086602, 0x10  # linux/fs.h: FS_IOC_*, FS_IMMUTABLE_FL


class LocalEfiVars:
    """Raises BootError when the firmware does not do what it was told."""

    def __init__(self, directory: Path = DIRECTORY) -> None:
        self._directory = directory

    def available(self) -> bool:
        """efivarfs is mounted and holds variables."""
        try:
            return any(True for _ in os.scandir(self._directory))
        except OSError:
            return False

    def read(self, name: str) -> str | None:
        try:
            data = self._path(name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BootError(f"the EFI variable {name} cannot be read", why=error.strerror or str(error)) from error
        return data[4:].decode("utf-16-le", "replace").rstrip("\0")

    def write(self, name: str, value: str) -> None:
        path = self._path(name)
        data = _ATTRIBUTES + value.encode("utf-16-le") + b"\0\0"
        with self._complaint(f"the EFI variable {name} cannot be written"):
            self._unprotect(path)
            fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
            try:
                os.write(fd, data)  # one write is one SetVariable()
            finally:
                os.close(fd)
        if self.read(name) != value:
            raise BootError(f"the firmware did not keep the EFI variable {name}",
                            why=f"wrote {value!r}, it says {self.read(name)!r}")

    def delete(self, name: str) -> None:
        path = self._path(name)
        with self._complaint(f"the EFI variable {name} cannot be deleted"), contextlib.suppress(FileNotFoundError):
            self._unprotect(path)
            path.unlink()
        if self.read(name) is not None:
            raise BootError(f"the firmware did not delete the EFI variable {name}")

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}-{VENDOR}"

    def _unprotect(self, path: Path) -> None:
        """efivarfs guards its files against a careless rm; a file system without flags has nothing to clear."""
        try:
            fd = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return
        try:
            flags, = struct.unpack("i", fcntl.ioctl(fd, _GETFLAGS, struct.pack("i", 0)))
            if flags & _IMMUTABLE:
                fcntl.ioctl(fd, _SETFLAGS, struct.pack("i", flags & ~_IMMUTABLE))
        except OSError:
            pass  # then the write itself says what is wrong
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def _complaint(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            hint = FULL if error.errno == errno.ENOSPC else f"is {self._directory} mounted read-write?"
            raise BootError(what, why=error.strerror or str(error), hint=hint) from error
