"""Live power cuts by the dozen: nodes are cut at random moments of a first boot, an update or a reinstall.

Usage: python3 -m tests.lab.campaign BUILD --cuts N --seed S [--loader L] [--only CUT] [--jobs J] [--minutes M]

A life (life.py) takes one node through one task and is cut up to three times on its way; what was not flushed is lost
as the dice say (powercut.py). Lives are added until there are N cuts of nodes that were not at rest. Cut n of a seed
belongs to life n div 3: --only repeats that life alone, with the same dice, in a record of its own. What was done is
kept in BUILD/campaign/<seed>: a second call goes on from there. Of a node that needed hands also its disk is kept, as
the last cut left it (before.img) and as it was found. A life in which the lab itself failed is listed apart, and told
again by the next call.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from tests.lab.cutreport import Cut, publish
from tests.lab.life import PER_LIFE, Broken, Life, Plan, Stranded, plan
from tests.lab.site import GIB, LOADERS, Lab

ROOM = 8 * GIB  # for a life's disk, its copy and its log; a full disk of the host would stop the node
Teller = Callable[[Path, Path, Plan], list[Cut]]


def needs_hands(error: BaseException, cuts: list[Cut]) -> bool:
    """Else the lab failed: nothing but a cut can have stranded a node that was well before."""
    return bool(cuts) and isinstance(error, (Stranded, TimeoutError))


def tell(build: Path, home: Path, plan: Plan) -> list[Cut]:
    """The cuts of a life with their outcome. Raises Broken."""
    lab, logs = Lab(build, home / "lab" / plan.name), home / "logs" / plan.name
    for old in (lab.workdir, logs):  # a killed run's: firmware variables of another life, above all
        shutil.rmtree(old, ignore_errors=True)
    life: Life | None = None
    try:
        if shutil.disk_usage(home).free < ROOM:
            raise Broken(f"less than {ROOM // GIB} GiB free for {home}")
        life = Life(lab.start(), plan)
        ended = life.tell()
        outcome = ("finished", life.mended) if ended == "done" else ("stayed", life.status["transaction"]["note"])
        return [cut.ended(*outcome) for cut in life.cuts]
    except Exception as error:
        why = f"{type(error).__name__}: {error}" + (f"; refused: {life.refused}" if life and life.refused else "")
        keep_logs(lab, logs)
        if life is None or not needs_hands(error, life.cuts):
            raise Broken(why) from error
        keep_disk(life, home / "stranded" / plan.name)
        return [cut.at(cut.place or "unknown").ended("needs hands", why) for cut in life.cuts]
    finally:
        lab.stop()
        shutil.rmtree(lab.workdir, ignore_errors=True)


def keep_logs(lab: Lab, logs: Path) -> None:
    logs.mkdir(parents=True, exist_ok=True)
    (logs / "trace.txt").write_text(traceback.format_exc())
    for node in lab.nodes:
        with contextlib.suppress(Exception):  # the error that is told is the first one
            node.collect(logs)


def keep_disk(life: Life, to: Path) -> None:
    """The only evidence."""
    life.node.cut()
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir(parents=True)
    for name in ("before.img", "disk.img", "OVMF_VARS.fd"):
        with contextlib.suppress(FileNotFoundError):
            shutil.move(life.node.workdir / name, to / name)


class Campaign:
    """The record is one JSON file for each life. `broken`: lives of this call in which the lab failed."""

    def __init__(self, build: Path, seed: int, *, loader: str = "", tell: Teller = tell, home: str = "") -> None:
        self.build, self.seed, self.loader, self._tell = build, seed, loader, tell
        self.home = build / "campaign" / (home or str(seed))
        self.lives = self.home / "lives"
        self.lives.mkdir(parents=True, exist_ok=True)
        self.broken: dict[int, str] = {}
        self._running: set[int] = set()
        self._lock = threading.Lock()

    def cuts(self) -> list[Cut]:
        found = [Cut(**record) for path in self.lives.glob("*.json") for record in json.loads(path.read_text())]
        return sorted(found, key=lambda cut: cut.number)

    def further(self, wanted: int) -> int | None:
        """The number of one more life, None when that many cuts are made or expected, those of nodes at rest aside;
        broken lives count here, so that a lab that always fails comes to an end."""
        cuts, away = self.cuts(), self._running | set(self.broken)
        done = {cut.life for cut in cuts}
        if sum(cut.life not in away and not cut.at_rest for cut in cuts) + PER_LIFE * len(away) >= wanted:
            return None
        return next(number for number in itertools.count() if number not in done | away)

    def run(self, draw: Callable[[], int | None], jobs: int) -> None:
        """So many lives at a time. A number is drawn when somebody is free to tell it."""
        def work() -> None:
            while True:
                with self._lock:
                    if (number := draw()) is None:
                        return
                    self._running.add(number)
                self._one(plan(number, self.seed, self.loader))

        with ThreadPoolExecutor(jobs, thread_name_prefix="life") as pool:
            for ended in [pool.submit(work) for _ in range(jobs)]:
                ended.result()

    def _one(self, life: Plan) -> None:
        started = time.monotonic()
        try:
            cuts = self._tell(self.build, self.home, life)
            said = ", ".join(f"cut {cut.number} in {cut.place}: {cut.outcome}" for cut in cuts)
        except Exception as error:
            cuts, said = [], str(error) if isinstance(error, Broken) else traceback.format_exc()
            said = f"not counted, the lab failed: {said}"
        with self._lock:
            self._running.discard(life.number)
            if cuts:
                self._keep(life.number, cuts)
            else:
                self.broken[life.number] = f"{life.name}: {said}"
            sys.stdout.write(f"{life.name} {life.task} {life.loader} {time.monotonic() - started:.0f} s: {said}\n")
            sys.stdout.flush()
            self.publish()

    def _keep(self, number: int, cuts: list[Cut]) -> None:
        new = self.lives / f"{number:03d}.new"
        new.write_text(json.dumps([asdict(cut) for cut in cuts]))
        new.replace(self.lives / f"{number:03d}.json")

    def publish(self) -> str:
        return publish(self.cuts(), self.home, [why for _, why in sorted(self.broken.items())])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("build", type=Path)
    parser.add_argument("--cuts", type=int, default=6)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="repeat the life of this cut")
    parser.add_argument("--loader", default="", choices=("", *LOADERS))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no life after that time")
    args = parser.parse_args()
    home = str(args.seed) if args.only is None else f"{args.seed}-only-{args.only}"
    campaign = Campaign(args.build.resolve(), args.seed, loader=args.loader, home=home)
    end, only = time.monotonic() + args.minutes * 60, iter(() if args.only is None else (args.only // PER_LIFE,))

    def draw() -> int | None:
        if args.only is not None:
            return next(only, None)
        return campaign.further(args.cuts) if time.monotonic() < end else None

    campaign.run(draw, args.jobs)
    sys.stdout.write(campaign.publish())
    return 1 if campaign.broken or any(cut.outcome == "needs hands" for cut in campaign.cuts()) else 0


if __name__ == "__main__":
    sys.exit(main())
