"""An identity that is two dicts: what the running system has, and what is kept."""

from __future__ import annotations

from dataclasses import dataclass, field

from k8r_agent.ports.statefiles import StateFiles


@dataclass
class FakeIdentity:
    """Kept in `files` when given, so that it lives and dies with the state partition. `restless` changes with every
    look, as a system does on which somebody works."""

    files: StateFiles | None = None
    has: dict[str, bytes] = field(default_factory=lambda: {"machine-id": b"0123456789abcdef0123456789abcdef\n"})
    kept: dict[str, bytes] = field(default_factory=dict)
    image_slot: bool = False
    restless: bool = False
    captures: int = 0

    def capture(self) -> None:
        if self.image_slot and self._kept():
            return
        self.captures += 1
        self.kept = dict(self.has)
        for name, data in self.has.items() if self.files else ():
            assert self.files is not None
            self.files.write(f"identity/{name}", data)

    def captured(self) -> bool:
        if self.restless:
            self.has = {**self.has, "changing": str(len(self.has.get("changing", b"")) + self.captures).encode()}
        kept = self._kept()
        return bool(kept) if self.image_slot else bool(kept) and kept == self.has

    def _kept(self) -> dict[str, bytes]:
        if self.files is None:
            return self.kept
        return {name: self.files.read(f"identity/{name}") or b"" for name in self.files.names("identity")}
