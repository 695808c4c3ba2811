"""What may be told to boot: the same for every boot loader."""

from __future__ import annotations

from k8r_agent.errors import Protected
from k8r_agent.model.slots import Slot
from k8r_agent.ports.boot import BootBackend


def assert_primary(backend: BootBackend, slot: Slot) -> None:
    """Raises Protected."""
    _assert(backend, slot, f"the {slot} slot does not become the primary")


def assert_once(backend: BootBackend, slot: Slot) -> None:
    """Raises Protected."""
    _assert(backend, slot, f"the {slot} slot is not booted")


def _assert(backend: BootBackend, slot: Slot, what: str) -> None:
    if slot is Slot.IMAGE and not backend.state().image_offered:
        raise Protected(what, why="it is being rewritten, or its rewriting was given up",
                        hint="`k8r-agent update` completes it")
    if backend.assets(slot) is None:
        raise Protected(what, why="its kernel or initrd is missing or damaged",
                        hint=f"k8r-agent slot install-assets {slot}")
