"""Container images that travel inside a golden image, for nodes that reach no registry."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from k8r_agent.build import tree
from k8r_agent.errors import UsageError

PLACE = "usr/share/k8r/images"
NAMES = "names"  # lines of FILE IMAGE, read by /usr/lib/k8r/preload-images
_OCI_NAME = "io.containerd.image.name"


def read(directory: Path) -> dict[str, tuple[str, ...]]:
    """File name → names of its container images. Raises UsageError for a file that holds none."""
    for path in directory.glob("*.tar"):
        if len(path.name.split()) != 1:
            raise UsageError(f"--preload: {path.name!r} has a blank in its name")
    found = {path.name: names_in(path) for path in sorted(directory.glob("*.tar"))}
    if not found:
        raise UsageError(f"--preload {directory} holds no .tar files",
                         hint="`ctr images export` and `docker save` make them")
    return found


def names_in(archive: Path) -> tuple[str, ...]:
    """Of an archive as `docker save` or `ctr images export` writes it. Raises UsageError."""
    try:
        with tarfile.open(archive) as tar:
            members = set(tar.getnames())
            if "manifest.json" in members:
                return _some(archive, [name for entry in _json(tar, "manifest.json")
                                       for name in entry.get("RepoTags") or ()])
            if "index.json" in members:
                notes = [entry.get("annotations", {}) for entry in _json(tar, "index.json").get("manifests", ())]
                return _some(archive, [note[_OCI_NAME] for note in notes if _OCI_NAME in note])
    except (tarfile.TarError, ValueError, AttributeError, EOFError, OSError) as error:
        raise UsageError(f"{archive} is no archive of container images", why=str(error)) from None
    raise UsageError(f"{archive} is no archive of container images", why="it has no manifest.json and no index.json")


def _json(tar: tarfile.TarFile, name: str) -> Any:
    file = tar.extractfile(name)
    if file is None:
        raise ValueError(f"{name} is not a file")
    return json.load(file)


def _some(archive: Path, names: list[str]) -> tuple[str, ...]:
    if not names or any(not name or len(name.split()) != 1 for name in names):
        raise UsageError(f"{archive}: its container images have no names", hint="export them by name, not by ID")
    return tuple(names)


def put_into(root: Path, directory: Path, found: Mapping[str, tuple[str, ...]]) -> None:
    (root / PLACE).mkdir(parents=True)
    for name in found:
        shutil.copyfile(directory / name, root / PLACE / name)
        (root / PLACE / name).chmod(0o644)
    lines = [f"{file} {image}\n" for file, images in found.items() for image in images]
    tree.write(root / PLACE / NAMES, "".join(lines))
