from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from k8r_agent.cli.bootassets import newest
from k8r_agent.errors import BootError, Exit
from k8r_agent.model.boot import BootAssets
from k8r_agent.model.bundle import Artifact, Manifest
from k8r_agent.model.slots import Slot, SlotState, SlotStatus
from tests.fakes.assets import in_memory
from tests.fakes.prompt import Prompt

NEW = in_memory(kernel=b"K2", initrd=b"I2", cmdline="quiet", release="2")


@dataclass
class Bundle:
    """What `bundle` and `slot install-assets` ask of one."""

    source: str = "/srv/2"
    signer: str = "k8r-release"
    raw_manifest: bytes = b""
    raw_signature: bytes = b""
    content: bytes = b"x" * 100
    manifest: Manifest = field(default_factory=lambda: Manifest(
        compatible=("generic-x86_64",), architecture="amd64", release=2, version="2.0", os="Debian", kubernetes="",
        created="2026-11-20T11:00:00Z", artifacts=(Artifact(
            kind="image", file="image.img.zst", size=50, sha256="ab" * 32, compression="zstd", unpacked_size=100,
            unpacked_sha256="cd" * 32),)))

    def open(self, source: str) -> Any:
        @contextmanager
        def opened() -> Any:
            yield replace(self, source=source)
        return opened()

    def boot_assets(self) -> BootAssets:
        return NEW

    def raw_index(self) -> bytes:
        return b'{"block_size": 4096, "used": [[0, 10], [20, 5]]}'

    @contextmanager
    def image(self) -> Any:
        yield self

    def chunks(self) -> Any:
        yield self.content[:60]
        yield self.content[60:]


@pytest.fixture
def prompt(tmp_path: Path) -> Prompt:
    found = Prompt(tmp_path)
    found.world.bundles = Bundle()
    (tmp_path / "boot").mkdir()
    (tmp_path / "srv").mkdir()
    for version in ("6.1.0-9-amd64", "6.1.0-10-amd64"):
        (tmp_path / "boot" / f"vmlinuz-{version}").write_bytes(b"kernel " + version.encode())
        (tmp_path / "boot" / f"initrd.img-{version}").write_bytes(b"initrd " + version.encode())
    (tmp_path / "boot/vmlinuz-6.1.0-11-amd64").write_bytes(b"no initrd yet")
    return found


def test_the_newest_kernel_that_has_an_initrd(prompt: Prompt) -> None:
    kernel, initrd = newest(prompt.tmp / "boot")
    assert (kernel.name, initrd.name) == ("vmlinuz-6.1.0-10-amd64", "initrd.img-6.1.0-10-amd64")
    with pytest.raises(BootError, match="no kernel"):
        newest(prompt.tmp)


def test_working_from_boot(prompt: Prompt) -> None:
    assert prompt.run("slot", "install-assets") == Exit.OK
    found = prompt.world.boot.assets(Slot.WORKING)
    assert found == in_memory(kernel=b"kernel 6.1.0-10-amd64", initrd=b"initrd 6.1.0-10-amd64", cmdline="quiet",
                               release="6.1.0-10-amd64")
    assert prompt.json("slot", "install-assets")["changed"] is False


def test_working_is_not_guessed_from_the_image_slot(prompt: Prompt) -> None:
    prompt.world.boot.now = replace(prompt.world.boot.now, current=Slot.IMAGE)  # type: ignore[attr-defined]
    assert prompt.run("slot", "install-assets", "working") == Exit.FAILED
    assert "--kernel" in prompt.err
    kernel, initrd = (str(prompt.tmp / "boot" / f"{name}-6.1.0-9-amd64") for name in ("vmlinuz", "initrd.img"))
    assert prompt.run("slot", "install-assets", "working", "--kernel", kernel) == Exit.USAGE
    assert prompt.run("slot", "install-assets", "working", "--kernel", kernel, "--initrd", initrd) == Exit.OK
    assert prompt.run("slot", "install-assets", "--kernel", "/none", "--initrd", "/none") == Exit.FAILED


def test_image_from_its_own_bundle_only(prompt: Prompt) -> None:
    slots = prompt.world.slots
    slots.set_status(Slot.IMAGE, SlotStatus(state=SlotState.OK, release=2))
    assert prompt.run("slot", "install-assets", "image") == Exit.FAILED
    assert "which bundle" in prompt.err
    slots.keep(2, {"source": b"/srv/2"})
    assert prompt.run("slot", "install-assets", "image") == Exit.OK
    assert prompt.world.boot.assets(Slot.IMAGE) == NEW
    prompt.world.boot.offer_image(False)
    slots.set_status(Slot.IMAGE, SlotStatus(state=SlotState.PENDING, release=2))
    assert prompt.run("slot", "install-assets", "image") == Exit.FAILED
    assert "half written" in prompt.err and not prompt.world.boot.state().image_offered
    slots.set_status(Slot.IMAGE, SlotStatus(state=SlotState.OK, release=2))
    assert prompt.json("slot", "install-assets", "image")["changed"] is True
    slots.keep(2, {"boot.json": b'{"digest": "of another kernel"}'})
    assert prompt.run("slot", "install-assets", "image") == Exit.FAILED
    assert "another release 2" in prompt.err
    slots.set_status(Slot.IMAGE, SlotStatus(state=SlotState.OK, release=1))
    slots.keep(1, {"source": b"/srv/2"})
    assert prompt.run("slot", "install-assets", "image") == Exit.FAILED
    assert "now holds release 2" in prompt.err


def test_busy_during_a_transaction(prompt: Prompt) -> None:
    with prompt.lock.hold("the runner"):
        assert prompt.run("slot", "install-assets") == Exit.BUSY


# bundle, check


def test_bundle_info(prompt: Prompt) -> None:
    assert prompt.run("bundle", "info", str(prompt.tmp / "srv")) == Exit.OK
    for text in ("2.0 (release 2)", "k8r-release", "generic-x86_64", "image.img.zst"):
        assert text in prompt.out
    found = prompt.json("bundle", "info", str(prompt.tmp / "srv"))
    assert found["manifest"]["release"] == 2
    assert found["signer"] == "k8r-release"


def test_bundle_verify_reads_all_of_it(prompt: Prompt) -> None:
    assert prompt.run("bundle", "verify", str(prompt.tmp / "srv")) == Exit.OK
    assert "100 B" in prompt.out
    assert "reading the image" in prompt.err


@pytest.mark.parametrize(("more", "says", "code"), [
    ({"architecture": "arm64"}, "it is for arm64, this is amd64", Exit.OK),
    ({"compatible": ("rpi-4",)}, "it is for rpi-4; this is generic-x86_64", Exit.OK),
    ({"artifacts": ()}, "holds no image", Exit.FAILED),
])
def test_bundle_verify_says_what_does_not_fit(prompt: Prompt, more: dict[str, Any], says: str, code: int) -> None:
    bundle: Any = prompt.world.bundles
    bundle.manifest = replace(bundle.manifest, **more)
    assert prompt.run("bundle", "verify", str(prompt.tmp / "srv")) == code
    assert says in prompt.err


def test_check(prompt: Prompt) -> None:
    assert prompt.run("check", str(prompt.tmp / "srv")) == Exit.OK
    assert "2.0 (release 2) is available" in prompt.out
    prompt.world.slots.set_status(Slot.IMAGE, SlotStatus(state=SlotState.OK, release=2))
    assert prompt.run("check", str(prompt.tmp / "srv")) == Exit.NOTHING_TO_DO
    assert prompt.json("check", str(prompt.tmp / "srv"))["newer"] is False


def test_check_needs_no_root(tmp_path: Path) -> None:
    prompt = Prompt(tmp_path, uid=1000)
    prompt.world.bundles = Bundle()
    assert prompt.run("check", "/") == Exit.OK


def test_the_plan_of_an_update_knows_the_bytes(prompt: Prompt) -> None:
    assert prompt.node.bytes_of({"source": "/srv/2"}) == {"write-image": 15 * 4096, "write-working": 15 * 4096}
    assert prompt.node.bytes_of({}) == {}
