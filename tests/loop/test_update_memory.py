"""An update needs at most 64 MiB, whatever the size of the image and of its initrd: measured over the product's own
engine, steps, bundle and devices. python3 -m tests.bench.memory does the same for images of 1 and 4 GiB."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.images import generate
from tests.bench.memory import BOUND, INITRD, measure

pytestmark = [pytest.mark.root, pytest.mark.loop, pytest.mark.slow]


def test_every_step_of_update_and_reinstall_stays_below_the_bound(tmp_path: Path) -> None:
    bundle = generate(tmp_path / "bundle", mib=160, level=1, initrd=INITRD)
    found = measure(bundle, tmp_path)
    assert set(found) == {"update, HTTP", "update, directory", "reinstall"}
    for what, peaks in found.items():
        assert {"after write-image", "after write-working"} & set(peaks), "a slot was written"
        assert {"after install-image-assets", "after install-working-assets"} & set(peaks), "and its assets"
        assert max(peaks.values()) <= BOUND, (what, peaks)
        assert max(peaks.values()) > 20 << 20, "the libraries alone need that much"
