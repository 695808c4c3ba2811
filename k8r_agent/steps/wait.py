"""Waiting, the same in every step: look, say what for, let a cancel, a stop and the step's own limit be met, sleep."""

from __future__ import annotations

from k8r_agent.ports.step import World

LOOK = 3.0  # seconds between two looks


class Wait:
    """Begins when it is made. `limit`: seconds; 0 or less is over at once."""

    def __init__(self, world: World, limit: float) -> None:
        self._world, self._started, self.limit = world, world.machine.monotonic(), limit

    @property
    def waited(self) -> float:
        """Seconds."""
        return self._world.machine.monotonic() - self._started

    @property
    def over(self) -> bool:
        return self.waited >= self.limit

    def pause(self, status: str = "") -> None:
        """Until the next look; `status` is what is waited for, for people. Raises what the engine ends a step with."""
        if status:
            self._world.report.status(status)
        self._world.report.progress(0, 0)  # where the engine meets a cancel, a stop and the step's own time limit
        self._world.machine.sleep(LOOK)
