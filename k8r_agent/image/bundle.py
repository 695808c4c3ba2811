"""Opening bundles: the manifest and its signature first, everything else by the hashes in it."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from k8r_agent.effects.http import Patience
from k8r_agent.errors import BundleError, FetchError, SignatureError
from k8r_agent.image import bootassets, signature
from k8r_agent.image import index as indexes
from k8r_agent.image import manifest as manifests
from k8r_agent.image.places import Place, place
from k8r_agent.image.sources import FramedImage, StreamImage
from k8r_agent.image.unpack import INPUT, unpack
from k8r_agent.model.boot import BootAssets
from k8r_agent.model.bundle import Artifact, ImageIndex, Manifest
from k8r_agent.ports.bundle import ImageSource
from k8r_agent.ports.commands import Commands

LEGACY_IMAGE, LEGACY_BOOT = "image.img.xz", "boot.tar.xz"


class Bundles:
    """The port. `legacy_release` is the number that an image without a manifest counts as: the release floor."""

    def __init__(self, commands: Commands, *, signers: Sequence[Path] = signature.ALLOWED_SIGNERS,
                 allow_unsigned: bool = False, allow_legacy: bool = False, ca_file: str = "",
                 legacy_release: Callable[[], int] = lambda: 1, patience: Patience | None = None) -> None:
        self._commands, self._signers = commands, tuple(signers)
        self._unsigned, self._legacy, self._legacy_release = allow_unsigned, allow_legacy, legacy_release
        self._ca_file, self._patience = ca_file, patience

    @contextlib.contextmanager
    def open(self, source: str) -> Iterator[OpenBundle]:
        found = place(source, ca_file=self._ca_file, patience=self._patience)
        try:
            yield self._verified(source, found)
        finally:
            found.close()

    def _verified(self, source: str, found: Place) -> OpenBundle:
        raw = found.small(manifests.NAME, manifests.MAX_MANIFEST)
        if raw is None:
            if self._legacy and (legacy := self._without_manifest(source, found)):
                return legacy
            raise FetchError(f"{source} holds no bundle", why=f"there is no {manifests.NAME}",
                             hint="is it the directory that holds manifest.toml? Images of the older k8r need "
                                  "update.allow_legacy = true")
        signed = found.small(manifests.SIGNATURE, signature.MAX_SIGNATURE)
        if signed is not None:
            signer = signature.verify(self._commands, raw, signed, signers=self._signers)
        elif self._unsigned:
            signer = ""
        else:
            raise SignatureError(f"{source} is not signed", why=f"there is no {manifests.SIGNATURE}",
                                 hint="sign it with `k8r-image sign`; in a laboratory, update.allow_unsigned = true")
        manifest = manifests.read(raw, name=f"{source.rstrip('/')}/{manifests.NAME}")
        return OpenBundle(source, found, manifest, signer=signer, raw=(raw, signed or b""))

    def _without_manifest(self, source: str, found: Place) -> OpenBundle | None:
        """The files of the shell version of k8r: nothing about them can be checked but that they unpack."""
        sizes = [found.size(name) for name in (LEGACY_IMAGE, LEGACY_BOOT)]
        if None in sizes:
            return None
        artifacts = tuple(
            Artifact(kind=kind, file=name, size=size or 0, sha256="", compression="xz", unpacked_size=0,
                     unpacked_sha256="")
            for kind, name, size in zip(("image", "boot"), (LEGACY_IMAGE, LEGACY_BOOT), sizes, strict=True))
        manifest = Manifest(compatible=(), architecture="", release=max(1, self._legacy_release()), kubernetes="",
                            version=time.strftime("legacy %Y-%m-%d", time.gmtime()), os="", created="",
                            artifacts=artifacts)
        return OpenBundle(source, found, manifest, signer="", raw=(b"", b""))


class OpenBundle:
    """The port Bundle. What it hands out was compared with the hashes of the signed manifest."""

    def __init__(self, source: str, found: Place, manifest: Manifest, *, signer: str,
                 raw: tuple[bytes, bytes]) -> None:
        self.source, self.manifest, self.signer = source, manifest, signer
        self.raw_manifest, self.raw_signature = raw
        self._place = found
        self._index: bytes | None = None

    @contextlib.contextmanager
    def image(self) -> Iterator[ImageSource]:
        artifact, index = self._artifact("image"), self.index()
        framed = index is not None and index.chunks[0].length > 0
        if index is not None and framed:
            _check_frames(artifact, index)
        with contextlib.closing(self._place.open(artifact.file, artifact.size)) as reader:
            if index is not None and framed:
                yield FramedImage(reader, artifact, index, dear=self._place.dear)
            else:
                yield StreamImage(reader, artifact, index)

    def index(self) -> ImageIndex | None:
        raw = self.raw_index()
        if not raw:
            return None
        index, image = indexes.read(raw), self._artifact("image")
        if index.size != image.unpacked_size:
            raise BundleError("manifest and index do not belong together",
                              why=f"the image has {image.unpacked_size} bytes in one, {index.size} in the other")
        return index

    def raw_index(self) -> bytes:
        artifact = self.manifest.artifact("index")
        if artifact is None:
            return b""
        if self._index is None:
            self._index = b"".join(self._checked(artifact))
        return self._index

    def boot_assets(self) -> BootAssets:
        artifact = self._artifact("boot")
        return bootassets.read(lambda: self._checked(artifact), name=artifact.file)

    def _artifact(self, kind: str) -> Artifact:
        found = self.manifest.artifact(kind)
        if found is None:
            raise BundleError(f"the bundle has no artifact of kind {kind!r}")
        return found

    def _checked(self, artifact: Artifact) -> Iterator[bytes]:
        """The unpacked content in pieces. Only after the last one is it certain that they were the right ones."""
        packed, content = _Check(artifact.file, artifact.size, artifact.sha256), _Check(
            artifact.file, artifact.unpacked_size or manifests.MAX_UNPACKED[artifact.kind], artifact.unpacked_sha256)
        with contextlib.closing(self._place.open(artifact.file, artifact.size)) as reader:
            def read() -> bytes:
                length = min(INPUT, artifact.size - packed.seen)
                return packed.add(reader.read(packed.seen, length)) if length > 0 else b""

            for piece in unpack(read, artifact.compression, name=artifact.file):
                yield content.add(piece)
            while read():  # a decompressor need not look at what follows its end
                pass
        packed.finish()
        content.finish()


class _Check:
    """Length and hash of what passes. No hash to compare with (legacy): the length is a limit only."""

    def __init__(self, name: str, size: int, sha256: str) -> None:
        self._name, self._size, self._sha256 = name, size, sha256
        self._digest = hashlib.sha256()
        self.seen = 0

    def add(self, data: bytes) -> bytes:
        self.seen += len(data)
        if self.seen > self._size:
            raise BundleError(f"{self._name} is longer than the {self._size} bytes it may have")
        self._digest.update(data)
        return data

    def finish(self) -> None:
        if self._sha256 and (self.seen, self._digest.hexdigest()) != (self._size, self._sha256):
            raise BundleError(f"{self._name} is not the file that the manifest lists",
                              why=f"{self.seen} bytes, sha256 {self._digest.hexdigest()[:16]}…; "
                                  f"expected {self._size}, {self._sha256[:16]}…",
                              hint="it was damaged, or replaced after the manifest was signed")


def _check_frames(artifact: Artifact, index: ImageIndex) -> None:
    last = index.chunks[-1]
    if artifact.compression == "xz" or last.offset + last.length != artifact.size:
        raise BundleError("manifest and index do not belong together",
                          why=f"the frames end at {last.offset + last.length}, {artifact.file} at {artifact.size}")
    if artifact.compression == "none" and any(
            chunk.length != indexes.chunk_range(index, n)[1] for n, chunk in enumerate(index.chunks)):
        raise BundleError(f"the chunks of {artifact.file} are not compressed, but shorter than they should be")
