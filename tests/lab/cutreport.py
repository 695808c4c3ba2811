"""What a campaign of power cuts showed: summary.txt, summary.json and cuts.svg."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

OUTCOMES = {"finished": "#2e7d32", "stayed": "#1565c0", "needs hands": "#c62828"}
ORDER = ("firmware", "loader", "kernel", "initramfs", "boot", "reboot", "panic", "idle", "partition-disk",
         "make-state", "check-bundle", "preflight", "disarm", "verify-image", "write-image", "install-image-assets",
         "finish-update", "capture-identity", "boot-image", "self-check", "set-primary-image", "write-working",
         "install-working-assets", "boot-working", "grow-working", "health-check", "confirm")
AT_REST = "idle"
LEFT, TOP, CELL, DOT = 190, 60, 16, 5


@dataclass(frozen=True, kw_only=True)
class Cut:
    """`ticks` since the power-on that `began` the run, `time` by the host's clock, sectors `in_flight` at the cut and
    those that `arrived`; `outcome` is that of the whole life it was a part of."""

    number: int
    life: int
    task: str
    loader: str
    ticks: int
    time: float
    place: str
    entries: int
    in_flight: int
    arrived: int
    outcome: str = ""
    why: str = ""
    began: float = 0.0

    @property
    def at_rest(self) -> bool:
        """Nothing was going on: it shows that a node comes back, and no more."""
        return self.place == AT_REST

    def at(self, place: str) -> Cut:
        return replace(self, place=place)

    def ended(self, outcome: str, why: str) -> Cut:
        return replace(self, outcome=outcome, why=why)


def place_of(cut: Cut, events: Iterable[Mapping[str, Any]]) -> str:
    """The step of the task that was open then, as the event log has it; the node's clock is a second off at most."""
    since = [event for event in events if event["task"] == cut.task and cut.began - 2 <= event["time"] <= cut.time]
    last = itertools.takewhile(lambda event: event["kind"] != "started", reversed(since))
    if any(not event["step"] and event["kind"] in ("succeeded", "failed") for event in last):
        return AT_REST  # the task had ended
    here = [event for event in since if event["step"]]
    if not here:
        return "boot"
    return str(here[-1]["step"]) if here[-1]["kind"] == "started" else f"after {here[-1]['step']}"


def publish(cuts: list[Cut], to: Path, broken: Sequence[str] = ()) -> str:
    """Write all three; the text. `broken`: lives in which the lab failed, none of whose cuts counts."""
    text = summary(cuts) + "".join(f"{why}\n" for why in broken)
    (to / "summary.txt").write_text(text)
    counted = Counter(cut.outcome for cut in cuts)
    record = {"cuts": len(cuts), "at_rest": sum(cut.at_rest for cut in cuts),
              "recovered": len(cuts) - counted["needs hands"], "outcomes": dict(counted),
              "stayed_after": stayed_after(cuts), "needing_hands": counted["needs hands"], "broken": list(broken),
              "each": [asdict(cut) for cut in cuts]}
    (to / "summary.json").write_text(json.dumps(record, indent=1) + "\n")
    (to / "cuts.svg").write_text(picture(cuts))
    return text


def stayed_after(cuts: Iterable[Cut]) -> dict[int, int]:
    """Cuts of a life, those at rest aside → lives with so many that stayed."""
    stayed = [cut for cut in cuts if cut.outcome == "stayed"]
    numbers = [sum(cut.life == life and not cut.at_rest for cut in stayed) for life in {cut.life for cut in stayed}]
    return dict(sorted(Counter(numbers).items()))


def summary(cuts: list[Cut]) -> str:
    counted = Counter(cut.outcome for cut in cuts)
    lossy = sum(1 for cut in cuts if cut.arrived < cut.in_flight)
    resting, lives = sum(cut.at_rest for cut in cuts), len({cut.life for cut in cuts})
    stayed = ", ".join(f"lives after {number} cuts: {n}" for number, n in stayed_after(cuts).items())
    lines = [f"{len(cuts)} cuts in {lives} lives, {resting} of them at rest: {counted['finished']} finished, "
             f"{counted['stayed']} stayed on a good system and said why{f' ({stayed})' if stayed else ''}, "
             f"{counted['needs hands']} needing hands",
             f"{lossy} cuts lost writes; {sum(cut.in_flight for cut in cuts)} sectors were in flight, "
             f"{sum(cut.arrived for cut in cuts)} of them arrived", ""]
    for task in dict.fromkeys(cut.task for cut in cuts):
        places = Counter(cut.place for cut in cuts if cut.task == task)
        lines.append(f"{task}: " + ", ".join(f"{place} {n}" for place, n in sorted(places.items(), key=_order)))
    for cut in cuts:
        if cut.outcome != "finished" or cut.why:
            why = (cut.why.splitlines() or [""])[0]
            lines.append(f"cut {cut.number} ({cut.loader}, in {cut.place}): {cut.outcome}: {why}")
    return "\n".join(lines) + "\n"


def _order(item: tuple[str, int]) -> tuple[int, str]:
    place = item[0].removeprefix("after ")
    return (ORDER.index(place) if place in ORDER else len(ORDER), item[0])


def picture(cuts: list[Cut]) -> str:
    """One column for each place of a node's life, one dot for each cut."""
    tasks = list(dict.fromkeys(cut.task for cut in cuts))
    parts, top, width = [], TOP, 760
    for task in tasks:
        places = sorted({cut.place for cut in cuts if cut.task == task}, key=lambda place: _order((place, 0)))
        parts.append(f'<text x="10" y="{top - 8}" font-weight="bold">{escape(task)}</text>')
        for row, place in enumerate(places):
            y = top + row * CELL
            parts.append(f'<text x="{LEFT - 10}" y="{y + 9}" text-anchor="end">{escape(place or "?")}</text>')
            here = [cut for cut in cuts if cut.task == task and cut.place == place]
            for column, cut in enumerate(here):
                x = LEFT + column * (2 * DOT + 3) + DOT
                shape = f'<circle cx="{x}" cy="{y + 5}" r="{DOT}"' if cut.loader == "grub" else \
                    f'<rect x="{x - DOT}" y="{y}" width="{2 * DOT}" height="{2 * DOT}"'
                parts.append(f'{shape} fill="{OUTCOMES.get(cut.outcome, "#888")}"><title>cut {cut.number}: '
                             f'{escape(cut.outcome)}</title>{"</circle>" if cut.loader == "grub" else "</rect>"}')
                width = max(width, x + 20)
        top += len(places) * CELL + 40
    legend = "".join(f'<rect x="{10 + 170 * i}" y="10" width="10" height="10" fill="{colour}"/>'
                     f'<text x="{25 + 170 * i}" y="19">{name}</text>' for i, (name, colour) in
                     enumerate(OUTCOMES.items())) + '<text x="520" y="19">○ grub  □ systemd-boot</text>'
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{top}" font-family="sans-serif" '
            f'font-size="11"><rect width="100%" height="100%" fill="white"/>{legend}{"".join(parts)}</svg>\n')
