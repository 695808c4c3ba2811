"""A bundle: one signed manifest and the artifacts whose hashes it carries."""

from __future__ import annotations

from dataclasses import dataclass

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """`size`/`sha256` are of the file as transferred, `unpacked_*` of its content. Hashes are hex."""

    kind: str  # "image", "index" or "boot"
    file: str
    size: int
    sha256: str
    compression: str  # "zstd", "xz" or "none"
    unpacked_size: int
    unpacked_sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    compatible: tuple[str, ...]
    architecture: str
    release: int
    version: str
    os: str
    kubernetes: str
    created: str
    artifacts: tuple[Artifact, ...]

    def artifact(self, kind: str) -> Artifact | None:
        return next((a for a in self.artifacts if a.kind == kind), None)


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """One piece of the image: hash of its raw bytes, and where its own compressed frame lies in the file."""

    sha256: str
    offset: int
    length: int


@dataclass(frozen=True, kw_only=True)
class ImageIndex:
    """Which blocks of an image matter and what each chunk of it hashes to. Unused blocks are zero in the image.

    `used` lists (first block, count) extents, ascending and disjoint.
    """

    size: int
    block_size: int
    chunk_size: int
    used: tuple[tuple[int, int], ...]
    chunks: tuple[Chunk, ...]
