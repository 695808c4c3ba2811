"""Boot assets go with their slot: kernel and modules change together."""

from __future__ import annotations

from k8r_agent.errors import BootError, BundleError, Protected
from k8r_agent.image.bootassets import assets_digest
from k8r_agent.model.boot import BootAssets
from k8r_agent.model.slots import Slot, SlotState
from k8r_agent.ports.bundle import Bundle
from k8r_agent.ports.step import World
from k8r_agent.steps.check_bundle import manifest_digest


class InstallImageAssets:
    """From the bundle. Remembers their hash: the boot partition is compared with it, not with the network."""

    name = "install-image-assets"
    summary = "Install the image slot's kernel and initrd"

    def done(self, world: World) -> bool:
        return _installed(world, Slot.IMAGE)

    def apply(self, world: World) -> None:
        if world.boot.state().current is Slot.IMAGE:
            raise Protected("the image slot's boot assets are not replaced", why="the node runs from it")
        _fetch(world, Slot.IMAGE)


class InstallWorkingAssets:
    """Those of the image slot, since the working slot is a copy of it."""

    name = "install-working-assets"
    summary = "Install the working slot's kernel and initrd"

    def done(self, world: World) -> bool:
        return _installed(world, Slot.WORKING)

    def apply(self, world: World) -> None:
        _assert_working_written(world)
        assets = world.boot.assets(Slot.IMAGE)
        if assets is None:
            raise BootError("the image slot's boot assets cannot be read")
        world.remember("working-assets", fingerprint(assets))
        install(world, Slot.WORKING, assets)


class FetchWorkingAssets:
    """From the bundle that the working slot was written from."""

    name = "fetch-working-assets"
    summary = "Install the working slot's kernel and initrd from the bundle"

    def done(self, world: World) -> bool:
        return _installed(world, Slot.WORKING)

    def apply(self, world: World) -> None:
        _assert_working_written(world)
        _fetch(world, Slot.WORKING)


def _assert_working_written(world: World) -> None:
    if world.boot.state().current is not Slot.IMAGE:
        raise Protected("the working slot's boot assets are not replaced", why="the node runs from it")
    if world.slots.status(Slot.WORKING).state is not SlotState.OK:
        raise Protected("the working slot's boot assets are not replaced", why="the slot is not written yet")


def _fetch(world: World, slot: Slot) -> None:
    """Nothing is fetched when the boot partition holds them already."""
    wanted = world.recall("boot-digest")  # "" where an older agent began
    if wanted:
        world.remember(f"{slot}-assets", wanted)
        if _present(world, slot):
            return _offer(world, slot)
    with world.bundles.open(world.recall("source")) as bundle:
        if manifest_digest(bundle) != world.recall("manifest"):
            raise _another(bundle)
        assets = bundle.boot_assets()
        found = fingerprint(assets)
        if wanted not in ("", found):  # possible without a manifest
            raise _another(bundle)
        if not wanted:
            world.remember(f"{slot}-assets", found)
        install(world, slot, assets)


def _another(bundle: Bundle) -> BundleError:
    """Its server has another release by now."""
    return BundleError(f"{bundle.source} holds another bundle than the one that was written",
                       why=f"release {bundle.manifest.release} now", hint="run the update again")


def _installed(world: World, slot: Slot) -> bool:
    return _present(world, slot) and (slot is Slot.WORKING or world.boot.state().image_offered)


def _offer(world: World, slot: Slot) -> None:
    if slot is Slot.IMAGE:
        world.boot.offer_image(True)


def _present(world: World, slot: Slot) -> bool:
    """Reading kernel and initrd from an SD card takes seconds, and the engine asks before each step: once per process
    is enough, the boot partition is not written behind the runner's back."""
    name = f"{slot}-assets"
    wanted = world.recall(name)
    if wanted and world.seen.get(name) != wanted and fingerprint(world.boot.assets(slot)) == wanted:
        world.seen[name] = wanted
    return bool(wanted) and world.seen.get(name) == wanted


def install(world: World, slot: Slot, assets: BootAssets) -> None:
    """Raises BootError when the boot partition afterwards holds something else."""
    if fingerprint(world.boot.assets(slot)) == fingerprint(assets):
        return _offer(world, slot)
    world.boot.install_assets(slot, assets)
    if fingerprint(world.boot.assets(slot)) != fingerprint(assets):
        raise BootError(f"the {slot} slot's boot assets were written but read back differently")


def fingerprint(assets: BootAssets | None) -> str:
    """"" for none."""
    return assets_digest(assets) if assets is not None else ""
