"""One operation on the firmware's variables. Runs in the guest, to which variables.py sends it: the product's own
backend on the guest's own firmware. It knows nothing but the product.

    python3 - arm|disarm|fill
"""

from __future__ import annotations

import sys

from k8r_agent.boot import sdfiles, systemd_boot
from k8r_agent.config import load
from k8r_agent.effects.efivars import LocalEfiVars
from k8r_agent.errors import BootError
from k8r_agent.model.slots import Slot
from k8r_agent.world import real

MANY = 10_000  # variables, of which no flash has room for so many
FULL = 3  # exit code


def arm() -> int:
    real(load()).boot.try_once(Slot.IMAGE)
    return 0


def disarm() -> int:
    real(load()).boot.disarm()
    return 0


def fill() -> int:
    """What arming and disarming do in the end, without reading the kernel first; FULL, when there is no room left."""
    variables = LocalEfiVars()
    for written in range(MANY):
        try:
            variables.write(systemd_boot.ONE_SHOT, sdfiles.pattern(Slot.IMAGE))
        except BootError as full:
            sys.stderr.write(f"{written} variables were written, then: {full}\n")
            return FULL
        variables.delete(systemd_boot.ONE_SHOT)
    return 0


if __name__ == "__main__":
    sys.exit({"arm": arm, "disarm": disarm, "fill": fill}[sys.argv[1]]())
