"""The distribution's part of a golden image: a tar made by mmdebstrap, kept in the cache by what went into it."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from k8r_agent.build.hostapt import acquire_options, host_sources
from k8r_agent.build.kubernetes import Packages
from k8r_agent.build.options import ARCHITECTURE, GoldenOptions
from k8r_agent.build.progress import Progress
from k8r_agent.effects.commands import FullCommands
from k8r_agent.errors import CommandFailed, UsageError
from k8r_agent.model.units import format_duration

PACKAGES = (
    "systemd", "systemd-sysv", "systemd-resolved", "systemd-timesyncd", "udev", "dbus", "kmod", "initramfs-tools",
    "busybox", "openssh-server", "ca-certificates", "iproute2",
    "python3", "python3-gi", "python3-pydbus", "python3-requests", "python3-psutil", "python3-pyudev", "python3-sh",
    "python3-zstandard",
    "e2fsprogs", "dosfstools", "fdisk", "util-linux", "xz-utils", "zstd",
)
LOADER_PACKAGES = {"systemd-boot": ("systemd-boot-efi",), "grub": ()}
_EXCLUDED = ("man", "info", "locale", "groff", "lintian", "linda", "bug")
DPKG_OPTIONS = (
    *(f"path-exclude=/usr/share/{name}/*" for name in _EXCLUDED),
    "path-exclude=/usr/share/doc/*", "path-include=/usr/share/doc/*/copyright",
)
# No Recommends: a node gets what is named and nothing by the way.
APT_OPTIONS = ('APT::Install-Recommends "false";', 'Acquire::Languages "none";')
_TIMEOUT = 3600.0
_KEPT = 4  # base systems in the cache
_FORMAT = 1  # a change of what this file does to the tree makes old cached bases useless
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


@dataclass(frozen=True, kw_only=True)
class BasePlan:
    suite: str
    packages: tuple[str, ...]
    sources: Mapping[str, str]  # file name → text; a URL as it is under the name "mirror"
    apt_options: tuple[str, ...]
    epoch: int

    def key(self) -> str:
        parts = (_FORMAT, ARCHITECTURE, self.suite, self.packages, sorted(self.sources.items()), self.apt_options,
                 DPKG_OPTIONS, self.epoch)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def depends(field: str) -> tuple[str, ...]:
    """Names out of a Depends field: first alternative, no version, no architecture."""
    names = []
    for clause in field.split(","):
        name = re.split(r"[\s(:|]", clause.strip(), maxsplit=1)[0]
        if name:
            names.append(name)
    return tuple(names)


def deb_depends(debs: Iterable[Path], commands: FullCommands) -> tuple[str, ...]:
    """What the given packages need besides each other. Raises UsageError for a file that is no package."""
    needed: set[str] = set()
    own: set[str] = set()
    for deb in debs:
        try:
            fields = commands.run(["dpkg-deb", "--showformat", "${Package}\n${Depends},${Pre-Depends}\n", "--show",
                                   str(deb)]).stdout
        except CommandFailed as error:
            raise UsageError(f"{deb} is not a Debian package", why=error.why) from None
        name, _, rest = fields.partition("\n")
        own.add(name.strip())
        needed.update(depends(rest.replace("\n", " ")))
    return tuple(sorted(needed - own))


def sources_for(options: GoldenOptions) -> dict[str, str]:
    """Raises UsageError when there is nothing to install from."""
    if not options.mirror:
        return host_sources(options.suite)
    path = Path(options.mirror)
    if path.is_file():
        return {f"given{path.suffix if path.suffix == '.sources' else '.list'}": path.read_text()}
    if "://" not in options.mirror:
        raise UsageError(f"--mirror {options.mirror}: neither a URL nor a file")
    return {"mirror": options.mirror}


def plan_base(options: GoldenOptions, commands: FullCommands, kubernetes: Packages | None = None) -> BasePlan:
    sources = sources_for(options)
    if kubernetes is not None:
        sources["kubernetes.sources"] = kubernetes.source()
    wanted = {*PACKAGES, options.kernel, *options.packages, *deb_depends(options.debs, commands),
              *(kubernetes.names() if kubernetes else ()),
              *(name for loader in options.loaders for name in LOADER_PACKAGES[loader])}
    return BasePlan(suite=options.suite, packages=tuple(sorted(wanted)), sources=sources,
                    apt_options=acquire_options(commands), epoch=options.epoch)


def mmdebstrap_arguments(plan: BasePlan, out: Path, archives: Path, work: Path, log: Path) -> list[str]:
    """The whole command. Writes nothing but the sources files into `work`."""
    hook_path = shlex.quote(str(archives))  # mmdebstrap hands its hooks to a shell
    arguments = ["mmdebstrap", "--variant=minbase", "--mode=root", f"--architectures={ARCHITECTURE}", "--format=tar",
                 f"--logfile={log}", "--skip=essential/unlink",
                 '--setup-hook=mkdir -p "$1/var/cache/apt/archives"',
                 f"--setup-hook=sync-in {hook_path} /var/cache/apt/archives",
                 f"--customize-hook=sync-out /var/cache/apt/archives {hook_path}",
                 f"--include={','.join(plan.packages)}"]
    arguments += [f"--aptopt={line}" for line in (*APT_OPTIONS, *plan.apt_options)]
    arguments += [f"--dpkgopt={line}" for line in DPKG_OPTIONS]
    arguments += [plan.suite, str(out)]
    for name, text in plan.sources.items():
        if name == "mirror":
            arguments.append(text)
            continue
        (work / name).write_text(text)
        arguments.append(str(work / name))
    return arguments


def make_base(plan: BasePlan, *, cache: Path, work: Path, log: Path, refresh: bool, commands: FullCommands,
              progress: Progress) -> Path:
    """The base as a tar, from the cache when the same was made before.

    The same plan asked again later gives the same packages until `refresh`: a build is repeatable for as long as
    the cache is kept. Raises CommandFailed with the end of mmdebstrap's log.
    """
    cached = cache / f"base-{plan.key()}.tar"
    if cached.exists() and not refresh:
        age = format_duration(max(0.0, time.time() - cached.stat().st_mtime))
        progress.note(f"base system from the cache ({age} old; --refresh fetches the present packages)")
        return cached
    progress.step(f"mmdebstrap: {plan.suite}, {len(plan.packages)} packages and what they need")
    archives = cache / "archives"
    archives.mkdir(parents=True, exist_ok=True)
    partial = work / "base.tar"
    env = {"SOURCE_DATE_EPOCH": str(plan.epoch), **{k: os.environ[k] for k in _PROXIES if k in os.environ}}
    log.touch()
    try:
        commands.run(mmdebstrap_arguments(plan, partial, archives, work, log), timeout=_TIMEOUT, env=env)
    except CommandFailed as error:
        raise CommandFailed("mmdebstrap could not make the base system", why=_tail(log) or error.why,
                            hint=f"the whole output is in {log}") from None
    _move(partial, cached)
    _prune(cache)
    return cached


def _tail(log: Path, lines: int = 8) -> str:
    text = log.read_text(errors="replace").strip()
    wanted = [line for line in text.splitlines() if line.startswith(("E:", "W:", "dpkg:"))] or text.splitlines()
    return "; ".join(wanted[-lines:])


def _prune(cache: Path) -> None:
    """Each is some hundred MiB: only the newest few are of use."""
    bases = sorted(cache.glob("base-*.tar"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in bases[_KEPT:]:
        path.unlink(missing_ok=True)


def _move(source: Path, target: Path) -> None:
    """Whole or not at all, also from another file system."""
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    with source.open("rb") as reader, partial.open("wb") as writer:
        while block := reader.read(1 << 20):
            writer.write(block)
        writer.flush()
        os.fsync(writer.fileno())
    source.unlink()
    partial.replace(target)
