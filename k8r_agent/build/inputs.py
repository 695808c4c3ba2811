"""What a build was made of, in one hash, so that the same build is not made twice."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import k8r_agent
from k8r_agent.build.options import BundleOptions, GoldenOptions

NAME = "inputs.json"


def file_hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _own_sources() -> Iterable[Path]:
    """What decides the bytes of an image: this room and the GRUB programs. The rest of the agent comes as a deb."""
    package = Path(k8r_agent.__file__).parent
    return sorted([*(package / "build").rglob("*.py"), package / "boot/grubimage.py"])


def key(golden: GoldenOptions, bundle: BundleOptions, *, size: int, base: str, signing_key: str) -> str:
    """A hex hash over everything that can change the result."""
    def plain(options: object) -> dict[str, str]:
        return {k: str(v) for k, v in dataclasses.asdict(options).items()}  # type: ignore[call-overload]

    preload = golden.kubernetes.preload if golden.kubernetes else None
    parts = {
        "golden": plain(dataclasses.replace(golden, debs=(), node_sources=None)),
        "bundle": plain(bundle), "size": size, "base": base, "signing_key": signing_key,
        "debs": [file_hash(deb) for deb in golden.debs],
        "node_sources": golden.node_sources.read_text() if golden.node_sources else "",
        "preload": [(path.name, file_hash(path)) for path in sorted(preload.glob("*.tar"))] if preload else [],
        "cni": [(path.name, file_hash(path)) for path in golden.kubernetes.cni] if golden.kubernetes else [],
        "tool": [file_hash(path) for path in _own_sources()],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def fresh(out: Path, wanted: str) -> bool:
    """Whether `out` holds a finished build of exactly these inputs, with all its files."""
    try:
        found = json.loads((out / NAME).read_text())
    except (OSError, ValueError):
        return False
    files = found.get("files", {})
    return found.get("key") == wanted and bool(files) and all(
        (out / name).is_file() and (out / name).stat().st_size == size for name, size in files.items())


def record(out: Path, wanted: str, files: Iterable[Path]) -> None:
    sizes = {str(path.relative_to(out)): path.stat().st_size for path in sorted(files)}
    (out / NAME).write_text(json.dumps({"key": wanted, "files": sizes}, indent=1) + "\n")


def forget(out: Path) -> None:
    """Before anything is changed: a build that is interrupted is not taken for a finished one."""
    (out / NAME).unlink(missing_ok=True)
