"""Before anything is written: is this bundle signed, meant for this node, newer than what it has, and does it fit?"""

from __future__ import annotations

import hashlib

from k8r_agent.errors import BundleError, DiskTooSmall, Incompatible, NothingToDo, Refused, UsageError
from k8r_agent.image import manifest as manifests
from k8r_agent.image.bootassets import assets_digest
from k8r_agent.model.bundle import Manifest
from k8r_agent.model.layout import BOOT, IMAGE, WORKING
from k8r_agent.model.slots import Slot, SlotState
from k8r_agent.model.units import format_size
from k8r_agent.ports.bundle import Bundle
from k8r_agent.ports.step import World
from k8r_agent.steps import by_hand, image_slot, quarantine, skew
from k8r_agent.store.slots import before

# On the boot partition lie the assets of two slots and, while one is replaced, a third set. What else is there of them
# is in use by nobody, and makes room.
_SETS = 3


class CheckBundle:
    """Remembers source, release, version, digest of the image, hash of the manifest: later steps accept no other."""

    name = "check-bundle"
    summary = "Check the bundle's signature and whether it suits this node"

    def __init__(self, *written: Slot) -> None:
        self._written = written or (Slot.IMAGE,)

    def done(self, world: World) -> bool:
        return bool(world.recall("manifest"))

    def apply(self, world: World) -> None:
        source = world.arg("source") or world.settings.update.source
        if not source:
            raise UsageError("where is the bundle?", why="no source was given and update.source is not set",
                             hint="k8r-agent update DIR|URL")
        world.report.status(f"checking {source}")
        with world.bundles.open(source) as bundle:
            suits(world, bundle.manifest)
            quarantine.refuse(world, bundle.manifest.release)
            newer(world, bundle.manifest, force=world.arg("force") == "yes")
            skew.check(world, bundle)
            quarantine.forgive(world, bundle.manifest.release)
            _remember(world, bundle, self._written)


class CheckPreviousBundle:
    """The one way below the release floor: exactly the bundle whose manifest this node kept."""

    name = "check-previous-bundle"
    summary = "Find the bundle of the release before this one"

    def __init__(self, *written: Slot) -> None:
        self._written = written or (Slot.IMAGE,)

    def done(self, world: World) -> bool:
        return bool(world.recall("manifest"))

    def apply(self, world: World) -> None:
        release = _previous(world)
        kept = world.slots.kept(release, manifests.NAME)
        source = world.arg("source") or (world.slots.kept(release, "source") or b"").decode("utf-8", "replace")
        if kept is None or not source:
            raise Refused(f"release {release} cannot be fetched again",
                          why="its manifest is not kept" if kept is None else "where it came from is not known",
                          hint="" if kept is None else "give the directory or address of its bundle")
        world.report.status(f"checking {source} for release {release}")
        with world.bundles.open(source) as bundle:
            if bundle.raw_manifest != kept:
                raise Refused(f"{source} does not hold release {release} any more",
                              why=f"it holds release {bundle.manifest.release} ({bundle.manifest.version})",
                              hint="give the directory or address of the older bundle")
            suits(world, bundle.manifest)
            skew.check(world, bundle, older_patch=True)
            _remember(world, bundle, self._written)


class CheckRescueBundle:
    """For the working slot itself, while the image slot runs: a newer bundle, or the one before when `release` says
    which. Nothing that could still boot is given up for it."""

    name = "check-rescue-bundle"
    summary = "Check the bundle for the working slot"

    def done(self, world: World) -> bool:
        return bool(world.recall("manifest"))

    def apply(self, world: World) -> None:
        if not world.boot.state().without_working:
            raise Refused("the working slot is not written from a bundle",
                          why="the node runs from it, or could still boot it",
                          hint="`k8r-agent update` and `rollback` go by way of the image slot then")
        by_hand.refuse(world)
        image_slot.partition(world, Slot.WORKING)
        (CheckPreviousBundle if world.arg("release") else CheckBundle)(Slot.WORKING, Slot.IMAGE).apply(world)


def suits(world: World, manifest: Manifest) -> None:
    """Board, architecture, room. Raises Incompatible, DiskTooSmall."""
    boards, architecture = world.machine.boards(), world.machine.architecture()
    if manifest.compatible and not set(manifest.compatible) & set(boards):
        raise Incompatible(f"release {manifest.release} is not for this board",
                           why=f"it is for {', '.join(manifest.compatible)}; this is {', '.join(boards) or 'unknown'}")
    if manifest.architecture and manifest.architecture != architecture:
        raise Incompatible(f"release {manifest.release} is not for this architecture",
                           why=f"it is for {manifest.architecture}; this is {architecture}")
    image, boot = manifest.artifact("image"), manifest.artifact("boot")
    if image is None or boot is None:
        raise BundleError("the bundle holds no image, or no boot assets")
    disk = world.disks.own()
    if disk.partition(IMAGE) is None:
        raise Refused(f"{disk.device} has no image partition")
    for number, needed, what in ((IMAGE, image.unpacked_size, "the image slot"),
                                 (WORKING, image.unpacked_size, "the working slot"),
                                 (BOOT, _SETS * boot.unpacked_size, "the boot partition")):
        found = disk.partition(number)
        if found is not None and found.size < needed:
            raise DiskTooSmall(f"release {manifest.release} does not fit: {what} has {format_size(found.size)}, "
                               f"{format_size(needed)} are needed", why=f"{needed - found.size} bytes too many",
                               hint="a node with a larger disk.image_size must be flashed anew")


def newer(world: World, manifest: Manifest, *, force: bool = False) -> None:
    """The release floor. Raises Incompatible below it, NothingToDo when the image slot holds this release already.
    `force` writes that once more; nothing but a rollback takes the node below the floor."""
    floor, present = world.slots.release_floor(), world.slots.status(Slot.IMAGE)
    if manifest.release < floor and not _runs(world, manifest):
        raise Incompatible(f"release {manifest.release} is older than this node accepts",
                           why=f"release {floor} was confirmed on it", hint="k8r-agent rollback goes back on purpose")
    image = manifest.artifact("image")
    legacy = image is not None and not image.unpacked_sha256  # has no number of its own
    complete = present.state is SlotState.OK and world.boot.state().image_offered  # with the boot assets that it needs
    if complete and present.release == manifest.release and not force and not legacy:
        same = image is not None and present.digest == image.unpacked_sha256
        raise NothingToDo(f"the image slot holds release {manifest.release} already",
                          why="" if same else "with another content: a changed image needs a number of its own",
                          hint="k8r-agent reinstall moves the node to it" if same else "")


def _runs(world: World, manifest: Manifest) -> bool:
    """After a rollback the image slot may have what the node runs anyway."""
    image, runs = manifest.artifact("image"), world.slots.status(Slot.WORKING)
    return (image is not None and image.unpacked_sha256 == runs.digest != "" and runs.state is SlotState.OK
            and world.boot.state().current is Slot.WORKING)


def manifest_digest(bundle: Bundle) -> str:
    """Identifies a bundle between steps; of one without a manifest, its sizes must do."""
    legacy = ":".join(f"{a.file}={a.size}" for a in bundle.manifest.artifacts).encode()
    return hashlib.sha256(bundle.raw_manifest or legacy).hexdigest()


def _remember(world: World, bundle: Bundle, written: tuple[Slot, ...]) -> None:
    """Reads the small artifacts once, so that a mistake in them is found before anything is written, and so is a boot
    partition that has no room for them beside the present ones."""
    bundle.raw_index()
    assets = bundle.boot_assets()
    world.boot.assert_room(assets, *written)
    boot = assets_digest(assets)
    image = bundle.manifest.artifact("image")
    world.remember("source", bundle.source)
    world.remember("release", str(bundle.manifest.release))
    world.remember("version", bundle.manifest.version)
    world.remember("digest", image.unpacked_sha256 if image else "")
    world.remember("boot-digest", boot)
    world.remember("manifest", manifest_digest(bundle))
    by = f"signed by {bundle.signer}" if bundle.signer else "NOT SIGNED"
    world.report.status(f"release {bundle.manifest.release} ({bundle.manifest.version}), {by}")


def _previous(world: World) -> int:
    wanted = world.arg("release")
    kept = world.slots.kept_releases()
    if wanted:
        if not wanted.isdecimal() or int(wanted) not in kept:
            raise Refused(f"release {wanted} is not kept on this node",
                          why=f"kept: {', '.join(map(str, kept)) or 'none'}")
        return int(wanted)
    working = world.slots.status(Slot.WORKING)
    current = working.release or world.machine.running_release()
    older = before(world.slots, current)
    if not older:
        raise Refused("there is no release to go back to", why=f"the node has release {current or 'unknown'}; "
                      f"kept: {', '.join(map(str, kept)) or 'none'}",
                      hint="k8r-agent reinstall ends what was begun" if working.state is not SlotState.OK else "")
    return older
