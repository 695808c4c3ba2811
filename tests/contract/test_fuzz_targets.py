"""What `make fuzz` does for hours, in seconds and without a fuzzer: each reader on good, cut and damaged input."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.targets import TARGETS, WORDS, run, seeds


@pytest.mark.fault(40)
@pytest.mark.parametrize("name", TARGETS)
def test_no_bytes_are_a_crash(name: str) -> None:
    dice = random.Random(name)
    for seed in (b"", *seeds(name)):
        run(name, seed)
        for _ in range(2 if name == "http" else 30):
            at = dice.randrange(len(seed) + 1)
            run(name, seed[:at])
            run(name, seed[:at] + dice.choice(WORDS) + seed[at + dice.choice((0, 1, 8)):])
            run(name, seed[:at] + dice.randbytes(1) + seed[at + 1:])
