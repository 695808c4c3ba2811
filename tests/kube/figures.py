"""What the story took: as multiples of the node's bare boot, and the agent's own share of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

# Steps in which others work while the agent waits: firmware, kernel and systemd; kubeadm, kubelet, container runtime
# and control plane; pods that end.
OTHERS = {"boot-image", "boot-working", "enter-cluster", "rejoin", "upgrade-control-plane", "drain", "cluster-health",
          "uncordon"}
Steps = list[dict[str, Any]]


@dataclass
class Figures:
    """Seconds. `bare`: node → from power on until somebody can log in, in the boot after its power cut (the other node
    rests then). `steps`: reinstall → its events."""

    bare: dict[str, float] = field(default_factory=dict)
    took: dict[str, float] = field(default_factory=dict)
    steps: dict[str, Steps] = field(default_factory=dict)

    def lines(self) -> list[str]:
        found = [f"{node}: bare boot, after the power cut {seconds:.0f} s" for node, seconds in self.bare.items()]
        found += [self._line(what, seconds) for what, seconds in self.took.items()]
        for what, events in self.steps.items():
            found.append(self._line(f"{what}: drain → uncordon", drained(events)))
            own, whole = share(events)
            found.append(f"{what}: the agent's own share {own:.0f} of {whole:.0f} s ({own / whole:.0%})")
            found.append("    " + ", ".join(f"{step} {seconds:.0f}" for step, seconds in by_step(events).items()))
        return found

    def _line(self, what: str, seconds: float) -> str:
        bare = self.bare.get(what.partition(":")[0], 0.0)
        return f"{what} {seconds:.0f} s" + (f" = {seconds / bare:.1f} bare boots" if bare else "")


def by_step(events: Steps) -> dict[str, float]:
    """Seconds of each step, all its tries together."""
    found: dict[str, float] = {}
    for event in events:
        if event["step"] and event["duration"] and event["kind"] in ("succeeded", "failed"):
            found[event["step"]] = found.get(event["step"], 0.0) + event["duration"]
    return found


def share(events: Steps) -> tuple[float, float]:
    """The agent's own seconds, and those of the whole transaction."""
    own = sum(seconds for step, seconds in by_step(events).items() if step not in OTHERS)
    return own, events[-1]["time"] - events[0]["time"]


def drained(events: Steps) -> float:
    """From the beginning of the drain until the node took pods again."""
    begin = next(e["time"] for e in events if e["step"] == "drain" and e["kind"] == "started")
    end = next(e["time"] for e in reversed(events) if e["step"] == "uncordon" and e["kind"] == "succeeded")
    return float(end - begin)
