"""What `make fuzz` does for hours, in seconds and without a fuzzer: each reader on good, cut and damaged input."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import DEEP, MANY, TARGETS, WORDS, run, seeds


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


@pytest.mark.fault(40)
@pytest.mark.parametrize("name", TARGETS)
def test_no_number_is_a_crash(name: str) -> None:
    """Each number in turn is one that is none, or that is too long to be read."""
    for seed in seeds(name):
        if DEEP in seed:
            continue
        for place in list(re.finditer(rb"\d+", seed))[:60]:
            for number in (MANY, b"9" * 400, b"1e400", b"\xb2", "\u0661".encode(), b"-1", b""):
                run(name, seed[:place.start()] + number + seed[place.end():])


def damaged(name: str) -> st.SearchStrategy[bytes]:
    """Pieces of what is right, in any order, with words and bytes between them."""
    pieces = [seed[at:at + size] for seed in seeds(name) if DEEP not in seed for size in (len(seed), 8, 64)
              for at in range(0, min(len(seed), 4000), size)]
    return st.lists(st.one_of(st.sampled_from([*pieces, *WORDS]), st.binary(max_size=8)), max_size=12).map(b"".join)


@pytest.mark.parametrize("name", TARGETS)
def test_whatever_is_put_together_is_no_crash(name: str) -> None:
    @settings(max_examples=20 if name == "http" else 150, suppress_health_check=list(HealthCheck))
    @given(damaged(name))
    def reads(data: bytes) -> None:
        run(name, data)
    reads()
