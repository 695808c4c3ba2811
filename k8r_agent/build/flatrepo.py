"""A directory of .deb files as apt sees a repository, so that apt finds out what else they need."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from urllib.parse import quote

from k8r_agent.build.inputs import file_hash
from k8r_agent.effects.commands import FullCommands
from k8r_agent.errors import CommandFailed, UsageError


class FlatRepository:
    """Read at once, written by make(): below `cache`, named by its content, so that the same packages give the same
    base system wherever they lay."""

    def __init__(self, directory: Path, cache: Path, commands: FullCommands) -> None:
        """Raises UsageError for a directory without packages, or a file that is none."""
        self._debs = sorted(directory.glob("*.deb"))
        if not self._debs:
            raise UsageError(f"{directory} holds no .deb packages")
        self.directory = directory
        self._fields = [_control(deb, commands) for deb in self._debs]
        self._index = "\n".join(
            f"{fields.rstrip()}\nFilename: ./{deb.name}\nSize: {deb.stat().st_size}\nSHA256: {file_hash(deb)}\n"
            for deb, fields in zip(self._debs, self._fields, strict=True))
        key = hashlib.sha256(self._index.encode()).hexdigest()[:16]
        self.place = cache / f"packages-{key}"

    @property
    def uri(self) -> str:
        return f"copy:{quote(str(self.place))}"

    def version(self, package: str, upstream: str) -> str:
        """The newest Debian revision of that upstream version (`1.31.4` → `1.31.4-1.1`). Raises UsageError."""
        found = [field(text, "Version") for text in self._fields if field(text, "Package") == package]
        fit = [version for version in found if version == upstream or version.startswith(f"{upstream}-")]
        if not fit:
            raise UsageError(f"no {package} {upstream} in {self.directory}",
                             why=f"it has {', '.join(found) or 'none'}")
        return max(fit, key=lambda version: [int(part) if part.isdecimal() else 0
                                             for part in version.rpartition("-")[2].split(".")])

    def make(self) -> None:
        """Whole or not at all."""
        if self.place.exists():
            return
        partial = self.place.with_name(f".{self.place.name}.{os.getpid()}")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for deb in self._debs:
            shutil.copyfile(deb, partial / deb.name)
        (partial / "Packages").write_text(self._index)
        partial.rename(self.place)


def _control(deb: Path, commands: FullCommands) -> str:
    try:
        return commands.run(["dpkg-deb", "--field", str(deb)]).stdout
    except CommandFailed as error:
        raise UsageError(f"{deb} is not a Debian package", why=error.why) from None


def field(stanza: str, name: str) -> str:
    """"" when there is no such field."""
    return next((line.partition(":")[2].strip() for line in stanza.splitlines() if line.startswith(f"{name}:")), "")
