"""One measured write, as the update does it: bundle opened, image written, read back. Prints JSON."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


class Quiet:
    def status(self, text: str) -> None:
        pass

    def progress(self, done: int, total: int) -> None:
        pass


def main() -> None:
    import requests  # noqa: F401 (what a real update has loaded as well)

    import k8r_agent.runner  # noqa: F401
    from k8r_agent.effects.commands import commands
    from k8r_agent.effects.device import open_device
    from k8r_agent.image.bundle import Bundles
    from k8r_agent.image.readback import verify
    from k8r_agent.image.write import write

    for name in ("pydbus", "psutil", "pyudev"):
        try:
            __import__(name)
        except ImportError:
            pass
    signers = sorted(Path("build/keys").glob("*.allowed_signers"))  # of the images that `make images` builds
    with Bundles(commands(), allow_unsigned=True, signers=signers).open(sys.argv[1]) as bundle:
        bundle.boot_assets()
        with open_device(Path(sys.argv[2]), write=True) as device:
            with bundle.image() as source:
                written = write(device, source, report=Quiet())
            started = time.monotonic()
            verify(device, written.index, report=Quiet(), changed=written.changed)
            read_back = time.monotonic() - started
    print(json.dumps({"write": written.seconds, "read_back": read_back, "rss": peak(), "written": written.written,
                      "skipped": written.skipped, "fetched": written.fetched}))


def peak() -> int:
    """Bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    return 0


if __name__ == "__main__":
    main()
