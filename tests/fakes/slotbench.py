"""A node in memory on which the steps that check, write and verify slots are tried one by one."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field, replace
from typing import Any, cast

from k8r_agent.config.settings import Settings, UpdateSettings
from k8r_agent.model.boot import BootState
from k8r_agent.model.partitioning import plan
from k8r_agent.model.slots import Slot
from k8r_agent.model.txn import Transaction
from k8r_agent.ports.step import World
from k8r_agent.steps.check_bundle import CheckBundle
from k8r_agent.steps.finish_update import FinishUpdate
from k8r_agent.steps.write_slot import WriteImage
from k8r_agent.store.slots import SlotStore
from tests.fakes import ext4
from tests.fakes.bundles import BLOCK, FakeBundles, fake_bundle, make_image
from tests.fakes.disks import NUMBERS, FakeDisks
from tests.fakes.flashed import MIB, flashed_gpt
from tests.fakes.machine import FakeMachine
from tests.fakes.simple import Listener, SimpleBoot, SimpleState
from tests.fakes.statefiles import FakeStateFiles

USED = ((0, 20), (30, 10))


def file_system(seed: int) -> bytes:
    """Random, but with a superblock."""
    image = bytearray(make_image(used=USED, seed=seed))
    image[1024:2048] = ext4.superblock(uuid=f"0000000{seed}-0000-4000-8000-000000000000", label="image",
                                       size=len(image))
    return bytes(image)


@dataclass
class Node:
    """Release 1 was flashed and runs from the working slot; the bundle of release 2 lies at /bundle."""

    current: Slot = Slot.WORKING
    primary: Slot = Slot.WORKING
    bundles: FakeBundles = field(default_factory=FakeBundles)

    def __post_init__(self) -> None:
        self.disks = FakeDisks(flashed_gpt(16 * MIB, boot=1 * MIB, image=1 * MIB))
        own = self.disks.own()
        layout = plan(own, image_size=MIB, state_size=MIB, role="worker", new_id=lambda: str(uuid.uuid4()))
        assert layout
        self.disks.write_table(own, layout.partitions, new_id=layout.id)
        for slot in Slot:
            self.disks.medium.write(self.disks.kernel[NUMBERS[slot]][0], file_system(1))
        self.disks.medium.flush()
        self.disks.boot(self.current)
        self.files = FakeStateFiles()
        self.boot = SimpleBoot(now=BootState(backend="simple", current=self.current, primary=self.primary, armed=None,
                                             tries_left=3))
        self.world = World(
            settings=Settings(update=UpdateSettings(source="/bundle")), disks=self.disks, boot=self.boot,
            state=SimpleState(), files=self.files, slots=SlotStore(self.files), bundles=self.bundles,
            identity=cast(Any, None), machine=FakeMachine(), report=Listener())
        self.begin("t1")
        self.bundle = self.bundles.add(fake_bundle(2, image=file_system(2), used=USED, compatible=("generic-x86_64",)))

    def begin(self, txn: str, **args: str) -> None:
        self.world.txn = Transaction(id=txn, task="update", steps=(), args=args)
        self.world.remember_fact = self._remember

    def _remember(self, name: str, value: str) -> Transaction:
        assert self.world.txn
        return replace(self.world.txn, facts={**self.world.txn.facts, name: value})

    def run(self, *steps: Any) -> None:
        for step in steps:
            step.apply(self.world)
            assert step.done(self.world), step.name

    def update(self) -> None:
        self.run(CheckBundle(), WriteImage())
        self.boot.install_assets(Slot.IMAGE, self.bundle.assets)
        self.run(FinishUpdate())

    def slot(self, slot: Slot, length: int = 64 * BLOCK) -> bytes:
        start, _ = self.disks.kernel[NUMBERS[slot]]
        return self.disks.medium.read(start, length)

    def holds(self, slot: Slot, image: bytes) -> bool:
        found = self.slot(slot)
        return all(found[first * BLOCK:(first + count) * BLOCK] == image[first * BLOCK:(first + count) * BLOCK]
                   for first, count in USED)

    def spoil(self, slot: Slot, offset: int) -> None:
        start, _ = self.disks.kernel[NUMBERS[slot]]
        self.disks.put(start + offset, b"rot")
        self.disks.medium.flush()
