"""Coverage-guided fuzzing of everything that reads what somebody else wrote: python3 -m tests.fuzz --time SECONDS.

The time is shared by all targets. What was found stays in build/fuzz/TARGET (corpus) and build/fuzz/crash-* (inputs
that brought out something else than a K8rError, ran for more than ten seconds or took more than a gigabyte).
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
from pathlib import Path

from tests.fuzz.targets import TARGETS, WORDS, seeds

ROOT = Path(__file__).resolve().parents[2]
MEMORY, SLOWEST = 1024, 10  # MiB; seconds for one input
RUNS = re.compile(r"stat::number_of_executed_units:\s*(\d+)")
COVERED = re.compile(r"cov: (\d+)")


def prepare(directory: Path, name: str) -> Path:
    corpus = directory / name.replace(" ", "-")
    corpus.mkdir(parents=True, exist_ok=True)
    for data in seeds(name):
        (corpus / hashlib.sha1(data).hexdigest()).write_bytes(data)
    return corpus


def words(directory: Path) -> Path:
    path = directory / "words"
    path.write_text("".join('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in WORDS))
    return path


def fuzz(directory: Path, name: str, seconds: int) -> tuple[int, int, str]:
    """Executions, places of the code that were reached, and what went wrong."""
    argv = [sys.executable, "-m", "tests.fuzz.one", name, str(prepare(directory, name)), f"-dict={words(directory)}",
            f"-max_total_time={seconds}", "-max_len=40000", f"-timeout={SLOWEST}", f"-rss_limit_mb={MEMORY}",
            "-print_final_stats=1", f"-artifact_prefix={directory}/crash-{name.replace(' ', '-')}-"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL)
    text = done.stdout + done.stderr
    runs, covered = RUNS.search(text), COVERED.findall(text)
    return (int(runs[1]) if runs else 0, max(map(int, covered), default=0),
            "" if done.returncode == 0 else text[max(0, text.find("Uncaught Python exception")):][:3000])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--time", type=int, default=60, help="seconds for all targets together")
    parser.add_argument("--only", choices=TARGETS, action="append")
    parser.add_argument("--into", type=Path, default=ROOT / "build" / "fuzz")
    args = parser.parse_args()
    names = args.only or list(TARGETS)
    args.into.mkdir(parents=True, exist_ok=True)
    total, faults = 0, 0
    for name in names:
        runs, covered, wrong = fuzz(args.into, name, max(1, args.time // len(names)))
        total, faults = total + runs, faults + bool(wrong)
        print(f"{name:14} {runs:9} executions, {covered:5} places reached{', FAULT' if wrong else ''}", flush=True)
        if wrong:
            print(wrong, flush=True)
    print(f"{total} executions, {faults} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
