"""How fast a slot is written, and in how much memory.  python3 -m tests.bench.write [--bundle DIR] [--rounds N] …

Compared with the two things that bound it: the decompressor alone (`zstd -dc >/dev/null`) and the device alone (dd of
the used bytes, ending in fsync), and with the pipe that people use instead (`zstd -dc | dd`). Rounds are interleaved
and the best of each is taken, since other work on the machine only ever makes things slower.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from k8r_agent.image import index as indexes
from k8r_agent.image import manifest as manifests
from tests.bench.images import generate

MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Case:
    """A bundle and a device to write it to; `used` bytes of its image matter."""

    bundle: Path
    device: Path
    image: Path
    size: int
    used: int
    program: str


def case(bundle: Path, device: Path) -> Case:
    manifest = manifests.read((bundle / manifests.NAME).read_bytes())
    image = manifest.artifact("image")
    assert image is not None
    index = indexes.read((bundle / indexes.NAME).read_bytes())
    return Case(bundle=bundle, device=device, image=bundle / image.file, size=index.size,
                used=indexes.used_bytes(index), program={"xz": "xz", "zstd": "zstd", "none": "cat"}[image.compression])


PRIORITY: list[str] = []


def timed(command: str) -> float:
    started = time.monotonic()
    subprocess.run([*PRIORITY, "bash", "-c", f"set -o pipefail; {command}"], check=True, stderr=subprocess.DEVNULL)
    return time.monotonic() - started


def unpack(case: Case) -> str:
    return f"cat {case.image}" if case.program == "cat" else f"{case.program} -dc {case.image}"


def decompressor(case: Case) -> float:
    return timed(f"{unpack(case)} >/dev/null")


def device_alone(case: Case, raw: Path) -> float:
    """The used bytes in one go. Real data: some devices and file systems are faster with zeros."""
    spoil(case)
    return timed(f"dd if={raw} of={case.device} bs=4M count={case.used} iflag=count_bytes conv=fsync,notrunc")


def pipe(case: Case) -> float:
    spoil(case)
    return timed(f"{unpack(case)} | dd of={case.device} bs=4M iflag=fullblock conv=fsync,notrunc")


def spoil(case: Case) -> None:
    """Other content than the image's, on the medium and out of the page cache."""
    fill = f"head -c {case.size} /dev/zero | tr '\\0' '\\252' >{case.device}"
    subprocess.run(["bash", "-c", f"{fill}; sync {case.device}; blockdev --flushbufs {case.device} || true"],
                   check=True, stderr=subprocess.DEVNULL)


def agent(case: Case) -> dict[str, float]:
    """A process of its own, so that its memory is its own."""
    done = subprocess.run([*PRIORITY, sys.executable, "-m", "tests.bench.child", str(case.bundle), str(case.device)],
                          check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


@contextmanager
def loop_device(directory: Path, size: int) -> Iterator[Path]:
    backing = directory / "device"
    with backing.open("wb") as file:
        file.truncate(size)
    made = subprocess.run(["losetup", "--find", "--show", str(backing)], check=True, capture_output=True, text=True)
    device = made.stdout.strip()
    try:
        yield Path(device)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)
        backing.unlink()


def throughput(case: Case, rounds: int, work: Path) -> dict[str, float]:
    raw = work / "raw"
    subprocess.run(["bash", "-c", f"{unpack(case)} | head -c {case.used} >{raw} || true"], check=True,
                   stderr=subprocess.DEVNULL)
    best: dict[str, float] = {}
    peak = 0.0
    for _ in range(rounds):
        spoil(case)
        written = agent(case)
        found = {"agent": written["write"], "decompressor": decompressor(case), "device": device_alone(case, raw),
                 "pipe": pipe(case), "read-back": written["read_back"]}
        best = {name: min(value, best.get(name, value)) for name, value in found.items()}
        peak = max(peak, written["rss"])
    agent(case)
    best["rss"] = peak
    best["again"] = agent(case)["write"]
    raw.unlink()
    return best


def report(case: Case, best: dict[str, float], name: str) -> float:
    bound = max(best["decompressor"], best["device"])
    ratio = bound / best["agent"]
    print(f"{name}: image {case.size // MIB} MiB, {case.used // MIB} MiB used, {case.program}")
    for what, label in (("decompressor", "decompressor alone"), ("device", "device alone (used bytes)"),
                        ("agent", "agent, write and flush"), ("pipe", f"{case.program} -dc | dd, fsync"),
                        ("read-back", "agent, read-back"), ("again", "agent, same image again")):
        print(f"  {label:28} {best[what]:7.2f} s  {case.used / MIB / best[what]:8.0f} MiB/s")
    print(f"  ratio to the slower of both  {ratio:7.2f}")
    print(f"  ratio to the pipe            {best['pipe'] / best['agent']:7.2f}")
    print(f"  peak memory of the process   {best['rss'] / MIB:7.1f} MiB", flush=True)
    return ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, action="append", default=[], help="measure these, not generated ones")
    parser.add_argument("--mib", type=int, action="append", default=[], help="sizes of generated images (1024, 4096)")
    parser.add_argument("--compression", action="append", default=[], choices=["zstd", "xz", "none"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--realtime", action="store_true",
                        help="everything measured with real-time priority (root): for a machine that is busy")
    parser.add_argument("--work", type=Path, help="where bundles and the file behind the device lie")
    args = parser.parse_args()
    PRIORITY[:] = ["chrt", "-f", "10"] if args.realtime else []
    with tempfile.TemporaryDirectory(prefix="bench-", dir=args.work) as directory:
        work = Path(directory)
        bundles = args.bundle or [
            generate(work / f"{how}-{mib}", mib=mib, compression=how)
            for how in args.compression or ["zstd"] for mib in args.mib or [1024, 4096]]
        peaks = []
        for bundle in bundles:
            size = case(bundle, Path()).size
            with loop_device(work, size) as device:
                found = case(bundle.resolve(), device)
                best = throughput(found, args.rounds, work)
                report(found, best, bundle.name)
                peaks.append(best["rss"])
    print(f"peak memory: {', '.join(f'{peak / MIB:.1f}' for peak in peaks)} MiB")


if __name__ == "__main__":
    main()
