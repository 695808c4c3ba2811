"""What each verb of `k8r-image` does with its arguments; returns what happened as plain data."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from k8r_agent.build import assets, base, bundle, disk, golden, kubernetes, signing
from k8r_agent.build.options import BundleOptions, DiskOptions, GoldenOptions
from k8r_agent.build.progress import Progress
from k8r_agent.build.seeds import source_date_epoch
from k8r_agent.effects.commands import FullCommands
from k8r_agent.errors import BuildError, UsageError
from k8r_agent.image import manifest as manifest_file

Report = dict[str, Any]


def run(args: argparse.Namespace, commands: FullCommands, progress: Progress) -> Report:
    """Raises K8rError."""
    verbs = {"build": build, "bundle": make_bundle, "disk": make_disk, "sign": sign, "keygen": keygen}
    return verbs[args.verb](args, commands, progress)


def _packing(args: argparse.Namespace, epoch: int) -> BundleOptions:
    if args.level > 22:
        raise UsageError(f"--level {args.level}", why="zstd knows 1 to 22")
    return BundleOptions(release=args.release, version=args.version, created=epoch,
                         compatible=tuple(args.compatible or ("generic-x86_64",)), os=getattr(args, "os", ""),
                         kubernetes=args.kubernetes, compression=args.compression, level=args.level)


def _text_of(paths: list[Path]) -> str:
    return "".join(path.read_text().rstrip("\n") + "\n" for path in paths)


def _signers(args: argparse.Namespace, commands: FullCommands) -> str:
    text = _text_of(args.signers)
    if args.sign_key is not None:
        public = signing.public_key(args.sign_key, commands)
        text += signing.signer_line(signing.principal_of(public), public)
    return text


def build(args: argparse.Namespace, commands: FullCommands, progress: Progress) -> Report:
    epoch = source_date_epoch(args.deb, args.epoch)
    options = GoldenOptions(
        release=args.release, version=args.version, loaders=tuple(args.loader or ("systemd-boot",)),
        debs=tuple(path.resolve() for path in args.deb), kernel=args.kernel, suite=args.suite,
        packages=tuple(args.package), mirror=args.mirror, node_sources=args.node_sources,
        cmdline=assets.check_cmdline(args.cmdline), signers=_signers(args, commands),
        authorized_keys=_text_of(args.authorized_key), epoch=epoch,
        kubernetes=kubernetes.options(version=args.kubernetes, packages=args.kubernetes_packages,
                                      key=args.kubernetes_key, preload=args.preload, cni=tuple(args.cni)))
    packing = _packing(args, epoch)
    place = golden.Place(out=args.out.resolve(), cache=args.cache.resolve())
    if not options.signers:
        progress.note("no --sign-key and no --signers: nodes of this image accept no signed bundle")
    if args.dry_run:
        plan = base.plan_base(options, commands, golden.kubernetes_packages(options, place, commands))
        return {"dry_run": True, "out": str(place.out), "packages": list(plan.packages), "sources": dict(plan.sources),
                "base_cached": (place.cache / f"base-{plan.key()}.tar").exists(), "epoch": epoch}
    outcome = golden.build(options, packing, place=place, size=args.size, key=args.sign_key, refresh=args.refresh,
                           force=args.force, commands=commands, progress=progress)
    return {"changed": outcome.made is not None, "out": str(place.out), **_described(place.bundle)}


def _described(directory: Path) -> Report:
    manifest = bundle.read_manifest(directory)
    sizes = {a.kind: {"file": a.file, "size": a.size, "unpacked_size": a.unpacked_size} for a in manifest.artifacts}
    return {"bundle": str(directory), "release": manifest.release, "version": manifest.version, "os": manifest.os,
            "signed": (directory / manifest_file.SIGNATURE).is_file(), "artifacts": sizes}


def make_bundle(args: argparse.Namespace, commands: FullCommands, progress: Progress) -> Report:
    boot = assets.read_directory(args.boot)
    if boot.release != str(args.release):
        raise UsageError(f"the boot assets are of release {boot.release}, not {args.release}")
    options = _packing(args, source_date_epoch((), args.epoch))
    if args.out.exists() and not (args.out / manifest_file.NAME).is_file() and any(args.out.iterdir()):
        raise UsageError(f"{args.out} exists and is not a bundle", hint="name a new directory, or remove it first")
    if args.dry_run:
        return {"dry_run": True, "bundle": str(args.out), "image": str(args.image)}
    bundle.make(args.out, image=args.image, boot=boot, options=options, key=args.sign_key, commands=commands,
                progress=progress)
    return _described(args.out)


def make_disk(args: argparse.Namespace, commands: FullCommands, progress: Progress) -> Report:
    source = args.bundle if "://" in args.bundle else str(Path(args.bundle).resolve())
    options = DiskOptions(bundle=source, loader=args.loader, out=args.out, config=args.config, size=args.size,
                          image_size=args.image_size, table=args.table, signers=args.signers)
    if args.dry_run:
        made = disk.plan(options, commands=commands, progress=progress)
    else:
        made = disk.make(options, commands=commands, progress=progress)
    return {"dry_run": args.dry_run, "disk": str(args.out), "size": made.size, "loader": args.loader,
            "table": args.table, "image_start": made.image_start, "image_size": made.image_size}


def sign(args: argparse.Namespace, commands: FullCommands, progress: Progress) -> Report:
    manifest = bundle.read_manifest(args.bundle)
    for artifact in manifest.artifacts:
        bundle.check_file(args.bundle, artifact)
    if args.dry_run:
        return {"dry_run": True, **_described(args.bundle)}
    signature = signing.sign(args.bundle / manifest_file.NAME, args.sign_key, commands)
    if not signature.is_file():
        raise BuildError(f"ssh-keygen left no {signature.name}")
    return _described(args.bundle)


def keygen(args: argparse.Namespace, commands: FullCommands, progress: Progress) -> Report:
    if args.dry_run:
        return {"dry_run": True, "key": str(args.key)}
    signers = signing.keygen(args.key, principal=args.principal, commands=commands)
    return {"key": str(args.key), "public": f"{args.key}.pub", "allowed_signers": str(signers)}

