"""Peak memory of a whole update and of a whole rewrite.  python3 -m tests.bench.memory [--mib N]... [--bundle DIR]...

For images of 1 and 4 GiB, with an initrd of 40 MB: every step of the update task, over HTTP and from a directory, then
the steps of a reinstall that move data. Each runs in a process of its own, over the product's own engine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from k8r_agent.image import manifest as manifests
from k8r_agent.model.slots import Slot
from k8r_agent.steps import STEPS
from k8r_agent.store.tasks import TaskFiles
from tests.bench.disk import NodeDisk, node_disk
from tests.bench.images import MIB, generate
from tests.http.server import serve

INITRD = 40_000_000
BOUND = 64 * MIB
UPDATE = TaskFiles(STEPS, [Path(__file__).parents[2] / "tasks"]).load("update").steps
REWRITE = ("verify-image", "write-working", "install-working-assets")


def run(node: NodeDisk, source: str, steps: tuple[str, ...]) -> dict[str, int]:
    """Moment → bytes."""
    done = subprocess.run([sys.executable, "-m", "tests.bench.task", str(node.facts.parent), source, *steps],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, int] = json.loads(done.stdout)
    return found


def measure(bundle: Path, work: Path, *, http: bool = True) -> dict[str, dict[str, int]]:
    """What was run → its peaks."""
    image = manifests.read((bundle / manifests.NAME).read_bytes()).artifact("image")
    assert image is not None
    size, found = -(-image.unpacked_size // MIB) * MIB, {}
    if http:
        with serve(bundle) as (_, prefix), node_disk(work / "http", image=size) as node:
            found["update, HTTP"] = run(node, prefix, UPDATE)
    with node_disk(work / "directory", image=size) as node:
        found["update, directory"] = run(node, str(bundle), UPDATE)
        node.runs(Slot.IMAGE)
        found["reinstall"] = run(node, str(bundle), REWRITE)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, action="append", default=[], help="measure these, not generated ones")
    parser.add_argument("--mib", type=int, action="append", default=[], help="sizes of generated images (1024, 4096)")
    parser.add_argument("--compression", default="zstd", choices=["zstd", "xz", "none"])
    parser.add_argument("--level", type=int, default=9, help="of the compression")
    parser.add_argument("--work", type=Path, help="where bundles and disks lie")
    args = parser.parse_args()
    worst = 0
    with tempfile.TemporaryDirectory(prefix="memory-", dir=args.work) as directory:
        bundles = args.bundle or [generate(Path(directory) / f"{mib}", mib=mib, compression=args.compression,
                                           level=args.level, initrd=INITRD) for mib in args.mib or [1024, 4096]]
        for bundle in bundles:
            with tempfile.TemporaryDirectory(prefix="node-", dir=directory) as work:
                for what, peaks in measure(bundle.resolve(), Path(work)).items():
                    print(f"{bundle.name} {what}: {max(peaks.values()) / MIB:.1f} MiB", flush=True)
                    print("".join(f"  {moment:32} {peak / MIB:6.1f}\n" for moment, peak in peaks.items()), end="")
                    worst = max(worst, *peaks.values())
    print(f"peak memory: {worst / MIB:.1f} MiB, at most {BOUND // MIB} wanted")


if __name__ == "__main__":
    main()
