"""From packages to a bundle: the whole of `k8r-image build`."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from k8r_agent.build import assets, base, bundle, chroot, ext4, inputs, kubernetes, loaders, preload, tree
from k8r_agent.build.options import BundleOptions, GoldenOptions, KubernetesOptions
from k8r_agent.build.progress import Progress
from k8r_agent.effects.commands import FullCommands
from k8r_agent.errors import BuildError, UsageError
from k8r_agent.model.boot import BootAssets
from k8r_agent.model.units import format_size


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a build reads and writes. `work` inside `out`: same file system, removed at the end."""

    out: Path
    cache: Path

    @property
    def work(self) -> Path:
        return self.out / ".work"

    @property
    def log(self) -> Path:
        return self.out / "build.log"

    @property
    def image(self) -> Path:
        return self.out / "image.img"

    @property
    def boot(self) -> Path:
        return self.out / "boot"

    @property
    def bundle(self) -> Path:
        return self.out / "bundle"

    @property
    def packages(self) -> Path:
        return self.out / "packages.txt"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """`made` is None when the outputs were already those of the same inputs."""

    place: Place
    made: bundle.Made | None


def build(golden: GoldenOptions, packing: BundleOptions, *, place: Place, size: int, key: Path | None,
          refresh: bool, force: bool, commands: FullCommands, progress: Progress) -> Outcome:
    """Raises UsageError, BuildError, CommandFailed. `size` 0: as large as the content needs."""
    if os.geteuid() != 0:
        raise UsageError("building an image needs root", why="files of the image belong to root and to system users")
    place.cache.mkdir(parents=True, exist_ok=True)
    packages = kubernetes_packages(golden, place, commands)
    plan = base.plan_base(golden, commands, packages)
    wanted = inputs.key(golden, packing, size=size, base=plan.key(),
                        signing_key=inputs.file_hash(key) if key else "")
    if not force and not refresh and inputs.fresh(place.out, wanted):
        return Outcome(place=place, made=None)
    place.out.mkdir(parents=True, exist_ok=True)
    inputs.forget(place.out)
    place.log.unlink(missing_ok=True)
    shutil.rmtree(place.work, ignore_errors=True)
    place.work.mkdir()
    if packages is not None and packages.directory is not None:
        packages.directory.make()
    tar = base.make_base(plan, cache=place.cache, work=place.work, log=place.log, refresh=refresh, commands=commands,
                         progress=progress)
    boot, system = _system(golden, tar, place, commands, progress)
    packing = dataclasses.replace(packing, os=packing.os or system)
    _file_system(golden, place, size, commands, progress)
    made = bundle.make(place.bundle, image=place.image, boot=boot, options=packing, key=key, commands=commands,
                       progress=progress)
    shutil.rmtree(place.work)
    inputs.record(place.out, wanted, [place.image, place.packages, *place.bundle.iterdir(), *place.boot.iterdir()])
    return Outcome(place=place, made=made)


def kubernetes_packages(golden: GoldenOptions, place: Place, commands: FullCommands) -> kubernetes.Packages | None:
    return None if golden.kubernetes is None else kubernetes.Packages(golden.kubernetes, place.cache, commands)


def _system(golden: GoldenOptions, tar: Path, place: Place, commands: FullCommands,
            progress: Progress) -> tuple[BootAssets, str]:
    """The finished tree in place.work/tree; returns its boot assets and the name of its system."""
    root = place.work / "tree"
    progress.step("unpacking the base system")
    chroot.unpack(tar, root, commands)
    tree.prepare(root)
    progress.step(f"installing {', '.join(deb.name for deb in golden.debs) or 'nothing more'}")
    chroot.install(root, golden.debs, epoch=golden.epoch, log=place.log, commands=commands)
    tree.configure(root, golden)
    if golden.kubernetes is not None:
        _kubernetes(root, golden.kubernetes, commands, progress)
    loaders.put_into(root, golden.loaders, work=place.work, commands=commands)
    progress.step("making the initramfs")
    version = chroot.make_initramfs(root, epoch=golden.epoch, log=place.log, commands=commands)
    tree.clean(root, golden)
    boot = assets.from_tree(root, kernel_version=version, cmdline=golden.cmdline, release=golden.release)
    assets.write_directory(boot, place.boot)
    place.packages.write_text(package_list((root / "var/lib/dpkg/status").read_text()))
    return assets.read_directory(place.boot), tree.os_name(root)


def _kubernetes(root: Path, wanted: KubernetesOptions, commands: FullCommands, progress: Progress) -> None:
    asked = kubernetes.configure(root, wanted, commands=commands)
    if wanted.preload is None:
        return
    found = preload.read(wanted.preload)
    preload.put_into(root, wanted.preload, found)
    missing = kubernetes.missing(asked, (image for images in found.values() for image in images))
    if missing:
        progress.note(f"kubeadm {wanted.version} asks also for container images that are not preloaded: "
                      f"{', '.join(missing)}")


def _file_system(golden: GoldenOptions, place: Place, size: int, commands: FullCommands, progress: Progress) -> None:
    root = place.work / "tree"
    content = ext4.tree_size(root)
    size = size or ext4.automatic_size(content)
    if content > size:
        raise BuildError(f"{format_size(content)} of files do not fit into {format_size(size)}",
                         hint="give a larger --size, or none")
    progress.step(f"making a file system of {format_size(size)} for {format_size(content)} of files")
    ext4.make(root, place.image, size=size, release=golden.release, epoch=golden.epoch, log=place.log,
              commands=commands)


def package_list(status: str) -> str:
    """`name version architecture` lines, sorted, out of dpkg's status file."""
    lines = []
    for stanza in status.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Version|Architecture|Status): (.*)$", stanza, re.M))
        if fields.get("Status", "").endswith(" installed"):
            lines.append(f"{fields['Package']} {fields['Version']} {fields['Architecture']}\n")
    return "".join(sorted(lines))
