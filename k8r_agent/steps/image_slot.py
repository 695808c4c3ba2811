"""What is known of the image slot: its status, the index kept of it, and both again where nobody has written them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from k8r_agent.errors import BundleError, FetchError, K8rError, Refused
from k8r_agent.image import index as indexes
from k8r_agent.image.bootassets import assets_digest
from k8r_agent.image.manifest import NAME as MANIFEST
from k8r_agent.image.manifest import SIGNATURE
from k8r_agent.image.readback import PIECE
from k8r_agent.model import strictjson, superblock
from k8r_agent.model.bundle import Chunk, ImageIndex
from k8r_agent.model.layout import IMAGE, WORKING, Partition
from k8r_agent.model.slots import Slot, SlotState, SlotStatus
from k8r_agent.ports.blockdev import BlockDevice
from k8r_agent.ports.bundle import Bundle
from k8r_agent.ports.step import World

NUMBERS = {Slot.IMAGE: IMAGE, Slot.WORKING: WORKING}
FLASHED = "/boot/firmware/k8r/bundle"  # manifest, signature and index of the image that a disk was flashed with
INDEX, SOURCE, BOOT = indexes.NAME, "source", "boot.json"
_CHUNK = 4 << 20


@dataclass(frozen=True, kw_only=True)
class KnownImage:
    status: SlotStatus
    index: ImageIndex


def partition(world: World, slot: Slot) -> Partition:
    """Raises Refused when the disk has none."""
    found = world.disks.own().partition(NUMBERS[slot])
    if found is None:
        raise Refused(f"the disk has no partition for the {slot} slot")
    return found


def known(world: World) -> KnownImage:
    """Raises Refused when the image slot is not complete or no index of it is kept."""
    status = world.slots.status(Slot.IMAGE)
    if status.state is not SlotState.OK:
        raise Refused(f"the image slot is {status.state}", why="its content is not known to be complete",
                      hint="run `k8r-agent update` first")
    raw = world.slots.kept(status.release, INDEX)
    if raw is None:
        raise Refused(f"the index of release {status.release} is not kept any more",
                      hint="`k8r-agent update` writes image slot and index anew")
    return KnownImage(status=status, index=indexes.read(raw, name=f"manifests/{status.release}/{INDEX}"))


def known_or_adopted(world: World) -> KnownImage:
    """As known(). On a freshly flashed disk, which the node runs from right now, nobody has written down what is in
    the image slot: then that is done here, from the bundle files on the boot partition or, where those are not there
    or not whole (it is a FAT), from the slot itself."""
    status = world.slots.status(Slot.IMAGE)
    if status.state is not SlotState.UNKNOWN or world.disks.facts().slot is not Slot.IMAGE:
        return known(world)
    try:
        return _adopt_flashed(world)
    except (FetchError, BundleError) as error:
        world.report.status(f"the image slot is taken as it is: {error}")
        return _adopt_content(world)


def keep(world: World, bundle: Bundle, index: ImageIndex) -> None:
    """Everything that later checks of the slot and a rollback need, before the slot's status says ok."""
    boot = world.recall("boot-digest") or assets_digest(bundle.boot_assets())
    files = {MANIFEST: bundle.raw_manifest, SIGNATURE: bundle.raw_signature, INDEX: indexes.write(index),
             SOURCE: bundle.source.encode(), BOOT: _boot(boot)}
    world.slots.keep(bundle.manifest.release, {name: data for name, data in files.items() if data})


def kept_boot_digest(world: World, release: int) -> str:
    """assets_digest() of the release's boot assets, "" when it is not kept."""
    raw = world.slots.kept(release, BOOT)
    try:
        return str(strictjson.loads(raw)["digest"]) if raw else ""
    except (ValueError, KeyError, TypeError):
        return ""


def set_status(world: World, slot: Slot, state: SlotState, status: SlotStatus) -> None:
    world.slots.set_status(slot, SlotStatus(
        state=state, release=status.release, version=status.version, digest=status.digest,
        txn=world.txn.id if world.txn else status.txn, time=world.machine.now()))


def _boot(digest: str) -> bytes:
    return json.dumps({"format": 1, "digest": digest}).encode() + b"\n"


def _adopt_flashed(world: World) -> KnownImage:
    with world.bundles.open(FLASHED) as bundle:
        raw, image = bundle.raw_index(), bundle.manifest.artifact("image")
        if not raw or image is None:
            raise FetchError(f"{FLASHED} holds no index")
        index = indexes.read(raw, name=f"{FLASHED}/{INDEX}")
        if index.size != image.unpacked_size:
            raise BundleError(f"{FLASHED}: manifest and index do not belong together")
        files = {MANIFEST: bundle.raw_manifest, SIGNATURE: bundle.raw_signature}
        status = SlotStatus(release=bundle.manifest.release, version=bundle.manifest.version,
                            digest=image.unpacked_sha256)
    return _adopt(world, status, index, files)


def _adopt_content(world: World) -> KnownImage:
    with world.disks.open(partition(world, Slot.IMAGE)) as device:
        index, digest = _index_of(world, device)
    release = max(1, world.machine.running_release())
    return _adopt(world, SlotStatus(release=release, version="as flashed", digest=digest), index, {})


def _adopt(world: World, status: SlotStatus, index: ImageIndex, files: dict[str, bytes]) -> KnownImage:
    assets = world.boot.assets(Slot.IMAGE)
    files = {**files, INDEX: indexes.write(index), SOURCE: world.settings.update.source.encode(),
             BOOT: _boot(assets_digest(assets)) if assets else b""}
    world.slots.keep(status.release, {name: data for name, data in files.items() if data})
    set_status(world, Slot.IMAGE, SlotState.OK, status)
    return KnownImage(status=world.slots.status(Slot.IMAGE), index=index)


def _index_of(world: World, device: BlockDevice) -> tuple[ImageIndex, str]:
    """An index over the whole file system, as its superblock says."""
    found = superblock.parse(device.read(superblock.OFFSET, superblock.LENGTH))
    if found is None or not 0 < found.size <= device.size or found.block_size % 4096:
        raise K8rError("the image slot holds no file system that can be copied")
    whole, chunks = hashlib.sha256(), []
    for start in range(0, found.size, _CHUNK):
        digest = hashlib.sha256()
        for at in range(start, min(start + _CHUNK, found.size), PIECE):
            data = device.read(at, min(PIECE, found.size - at))
            digest.update(data)
            whole.update(data)
        chunks.append(Chunk(sha256=digest.hexdigest(), offset=0, length=0))
        world.report.progress(min(start + _CHUNK, found.size), found.size)
    index = ImageIndex(size=found.size, block_size=4096, chunk_size=_CHUNK, used=((0, found.size // 4096),),
                       chunks=tuple(chunks))
    return index, whole.hexdigest()
