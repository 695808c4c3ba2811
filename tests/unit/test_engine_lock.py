"""The runner and others who hold its lock."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from threading import Timer

import pytest

from k8r_agent.errors import Busy
from k8r_agent.runner import Runner
from k8r_agent.store.lock import Lock
from tests.fakes.simple import simple_world


@pytest.mark.parametrize("patience", [0.0, 30.0])
def test_somebody_who_is_soon_done_is_waited_for(tmp_path: Path, patience: float) -> None:
    """Or systemd would start the runner in vain until it gives up."""
    lock = tmp_path / "lock"
    runner = Runner(simple_world(), lock=Lock(lock), patience=patience)
    held = ExitStack()
    held.enter_context(Lock(lock).hold("slot verify"))
    leaves = Timer(0.5, held.close)
    leaves.start()
    try:
        if patience:
            assert runner.run() is None
        else:
            with pytest.raises(Busy, match="slot verify"):
                runner.run()
    finally:
        leaves.join()
