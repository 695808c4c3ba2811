"""The command line of `k8r-image`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import k8r_agent
from k8r_agent.boot.loaderfiles import LOADERS
from k8r_agent.build.options import COMPRESSIONS, TABLES
from k8r_agent.model.units import parse_size

_EPILOG = "Exit codes: 0 ok, 1 failed, 2 usage, 78 a mistake in --config. See k8r-image(8)."


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _whole(low: int) -> Callable[[str], int]:
    def whole(text: str) -> int:
        if not text.isdecimal() or int(text) < low:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {low}")
        return int(text)
    return whole


def _file(text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"{text} is not a file")
    return path


def _directory(text: str) -> Path:
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is not a directory")
    return path


def _common() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="the result as JSON on standard output")
    common.add_argument("--quiet", action="store_true", help="say nothing but errors and the result")
    common.add_argument("--dry-run", action="store_true", help="check everything, print the plan, write nothing")
    return common


def _packing(verb: argparse.ArgumentParser) -> None:
    group = verb.add_argument_group("the bundle")
    group.add_argument("--release", type=_whole(1), required=True, metavar="N", help="nodes accept no lower one")
    group.add_argument("--version", required=True, metavar="V", help="for people, such as 2026.11.2")
    group.add_argument("--compatible", action="append", metavar="BOARD", help="repeatable; default generic-x86_64")
    group.add_argument("--kubernetes", default="", metavar="X.Y.Z", help="Kubernetes version inside, if any")
    group.add_argument("--compression", choices=COMPRESSIONS, default="zstd", help="default zstd")
    group.add_argument("--level", type=_whole(1), default=9, metavar="N", help="of zstd, 1 to 22; default 9")
    group.add_argument("--sign-key", type=Path, metavar="KEY", help="SSH private key that signs the manifest")
    group.add_argument("--epoch", type=_whole(0), metavar="SECONDS",
                       help="the point in time that everything carries; default $SOURCE_DATE_EPOCH, or the .deb's")


def _build(verb: argparse.ArgumentParser) -> None:
    _packing(verb)
    group = verb.add_argument_group("the system")
    group.add_argument("--deb", type=_file, action="append", default=[], metavar="FILE",
                       help="package to install, such as the agent's; repeatable")
    group.add_argument("--loader", choices=LOADERS, action="append",
                       help="loader to carry; repeatable; default systemd-boot")
    group.add_argument("--kernel", default="linux-image-amd64", metavar="PACKAGE", help="default linux-image-amd64")
    group.add_argument("--suite", default="bookworm", help="Debian release; default bookworm")
    group.add_argument("--package", action="append", default=[], metavar="NAME", help="further package; repeatable")
    group.add_argument("--mirror", default="", metavar="URL|FILE", help="default: this host's own apt sources")
    group.add_argument("--node-sources", type=_file, metavar="FILE", help="apt sources that nodes shall have")
    group.add_argument("--cmdline", default="", metavar="ARGS", help='kernel arguments, such as "console=ttyS0"')
    group.add_argument("--authorized-key", type=_file, action="append", default=[], metavar="FILE",
                       help="public SSH keys of root; repeatable")
    group.add_argument("--signers", type=_file, action="append", default=[], metavar="FILE",
                       help="allowed_signers lines besides that of --sign-key; repeatable")
    group.add_argument("--size", type=_size, default=0, metavar="SIZE", help="of the image; default: what it needs")
    group = verb.add_argument_group("Kubernetes, of the version that --kubernetes names")
    group.add_argument("--kubernetes-packages", default="", metavar="DIR|URL",
                       help="kubeadm, kubelet and kubectl: .deb files, or the apt repository of that minor version")
    group.add_argument("--kubernetes-key", type=_file, metavar="FILE", help="OpenPGP key of that repository")
    group.add_argument("--preload", type=_directory, metavar="DIR",
                       help="container images (*.tar) that the image carries, for nodes that reach no registry")
    group.add_argument("--cni", type=_file, action="append", default=[], metavar="FILE",
                       help="manifest of a pod network, named calico.yaml, flannel-0.26.1.yaml, ...; repeatable")
    group = verb.add_argument_group("the build")
    group.add_argument("--out", type=Path, required=True, metavar="DIR", help="DIR/bundle, DIR/image.img, DIR/boot/")
    group.add_argument("--cache", type=Path, default=Path("build/cache/apt"), metavar="DIR",
                       help="packages and base systems; default build/cache/apt")
    group.add_argument("--refresh", action="store_true", help="fetch the present packages, make the base system anew")
    group.add_argument("--force", action="store_true", help="build even when nothing changed")


def _bundle(verb: argparse.ArgumentParser) -> None:
    _packing(verb)
    verb.add_argument("--image", type=_file, required=True, metavar="FILE", help="ext4 file system")
    verb.add_argument("--boot", type=Path, required=True, metavar="DIR", help="vmlinuz, initrd.img, cmdline, release")
    verb.add_argument("--os", default="", metavar="TEXT", help="name of the system, for people")
    verb.add_argument("--out", type=Path, required=True, metavar="DIR", help="the bundle; replaced")


def _disk(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--bundle", required=True, metavar="DIR|URL")
    verb.add_argument("--loader", choices=LOADERS, default="systemd-boot", help="default systemd-boot")
    verb.add_argument("--out", type=Path, required=True, metavar="FILE", help="disk image; replaced")
    verb.add_argument("--config", type=Path, metavar="FILE", help="k8r.toml of the node; default: one to fill in")
    verb.add_argument("--size", type=_size, default=0, metavar="SIZE", help="of the disk; default: the least")
    verb.add_argument("--image-size", type=_size, default=0, metavar="SIZE", help="of the image slot's partition")
    verb.add_argument("--table", choices=TABLES, default="gpt", help="default gpt")
    verb.add_argument("--signers", type=_file, metavar="FILE", help="check the signature against this file first")


def _sign(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("bundle", type=Path, metavar="DIR")
    verb.add_argument("--sign-key", type=Path, required=True, metavar="KEY", help="SSH private key")


def _keygen(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("key", type=Path, metavar="KEY", help="KEY, KEY.pub and KEY.allowed_signers are made")
    verb.add_argument("--principal", default="k8r-release", metavar="NAME", help="who signs; default k8r-release")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="k8r-image", description="Make golden images, bundles and flashable disks.",
                                  epilog=_EPILOG)
    top.add_argument("--version", action="version", version=f"k8r-image {k8r_agent.__version__}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, text, fill in (
            ("build", "a golden image from Debian packages, and its bundle", _build),
            ("bundle", "a bundle from an image that exists", _bundle),
            ("disk", "a flashable disk from a bundle", _disk),
            ("sign", "sign the manifest of a bundle", _sign),
            ("keygen", "a key for signing bundles", _keygen)):
        fill(verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", parents=[_common()],
                              epilog=_EPILOG))
    return top
