"""Where images come from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from k8r_agent.model.boot import BootAssets
from k8r_agent.model.bundle import ImageIndex, Manifest


class ImageSource(Protocol):
    """An image as a run of chunks, read in ascending order; chunks may be left out."""

    @property
    def size(self) -> int:
        """Unpacked bytes; 0 when not known before reading (legacy xz)."""

    @property
    def index(self) -> ImageIndex | None:
        """None for a stream without one: then chunks() is the only way and nothing can be skipped."""

    @property
    def workers(self) -> int:
        """How many threads may call chunk() at a time. 1: one, and in ascending order only."""

    @property
    def dear(self) -> bool:
        """Fetching costs more than looking first whether the target already holds the chunk."""

    @property
    def digest(self) -> str:
        """sha256 of the whole unpacked image, hex. Of an image without a manifest known when chunks() has ended."""

    @property
    def fetched(self) -> int:
        """Bytes transferred so far."""

    def chunk(self, number: int) -> bytes:
        """Raw bytes of one chunk, its hash checked (BundleError). Needs an index."""

    def chunks(self) -> Iterator[bytes]:
        """The whole image in order, hash checked at its end."""


class Bundle(Protocol):
    """An opened bundle. The manifest's signature was verified before this object existed."""

    @property
    def source(self) -> str: ...
    @property
    def manifest(self) -> Manifest: ...
    @property
    def signer(self) -> str:
        """Principal of the key that signed; "" for an unsigned bundle that the configuration allows."""

    @property
    def raw_manifest(self) -> bytes: ...
    @property
    def raw_signature(self) -> bytes: ...

    def image(self) -> AbstractContextManager[ImageSource]: ...

    def boot_assets(self) -> BootAssets:
        """Checked, which reads (fetches) all of it; their files are fetched again when they are read."""

    def raw_index(self) -> bytes:
        """b"" when the bundle has none."""


class Bundles(Protocol):
    def open(self, source: str) -> AbstractContextManager[Bundle]:
        """A directory or an HTTP(S) prefix. Fetches and verifies the manifest before anything else.

        Raises FetchError, SignatureError, BundleError.
        """
