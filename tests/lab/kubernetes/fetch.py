"""What the build needs from Debian's mirror, with apt lists of its own: nothing on this machine is changed."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from k8r_agent.build.hostapt import acquire_options, host_sources
from k8r_agent.effects.commands import commands

SUITE = "bookworm"


class Mirror:
    """The host's own apt sources for Debian 12, with those of source packages besides."""

    def __init__(self, directory: Path) -> None:
        for name in ("lists/partial", "parts", "archives/partial", "state"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        (directory / "state" / "status").touch()
        for name, text in host_sources(SUITE).items():
            (directory / "parts" / name).write_text(with_sources(text))
        self._config = directory / "apt.conf"
        self._config.write_text("\n".join([
            'Dir::Etc::SourceList "/dev/null";', f'Dir::Etc::SourceParts "{directory / "parts"}";',
            f'Dir::State::Lists "{directory / "lists"}";', f'Dir::State::Status "{directory / "state/status"}";',
            f'Dir::Cache "{directory}";', f'Dir::Cache::Archives "{directory / "archives"}";',
            'APT::Sandbox::User "root";', 'APT::Architecture "amd64";', 'APT::Architectures { "amd64"; };',
            'Acquire::Languages "none";', *acquire_options(commands())]) + "\n")
        self._apt("update", "--error-on=any", cwd=directory)

    def _apt(self, *arguments: str, cwd: Path) -> None:
        subprocess.run(["apt-get", "-qq", *arguments], cwd=cwd, check=True, stdin=subprocess.DEVNULL,
                       env={"APT_CONFIG": str(self._config), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"})

    def source(self, package: str, into: Path) -> Path:
        """The tar of the upstream source, checked by apt against the mirror's signature."""
        into.mkdir(parents=True, exist_ok=True)
        self._apt("source", "--download-only", "--tar-only", package, cwd=into)
        return next(into.glob(f"{package}_*.orig.tar.*"))

    def packages(self, names: Sequence[str], into: Path) -> list[Path]:
        """The .deb files, in the order of `names`."""
        into.mkdir(parents=True, exist_ok=True)
        self._apt("download", *names, cwd=into)
        return [next(into.glob(f"{name}_*.deb")) for name in names]


def with_sources(text: str) -> str:
    """The same sources, and their source packages."""
    lines = []
    for line in text.splitlines():
        lines.append("Types: deb deb-src" if line.startswith("Types:") else line)
        if line.startswith(("deb ", "deb\t")):
            lines.append(f"deb-src{line[3:]}")
    return "\n".join(lines) + "\n"


def unpack(deb: Path, into: Path) -> None:
    subprocess.run(["dpkg-deb", "--extract", str(deb), str(into)], check=True)
