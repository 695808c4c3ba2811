"""The kernel arguments that the boot protocol itself sets, before a slot's own."""

from __future__ import annotations

from k8r_agent.model.slots import Slot

# gpt: use the backup table after a torn write. panic: nothing hangs. fsck.mode=skip: the initramfs decides, with a
# clock floor. gpt_auto=0: systemd must not mount partitions that it finds by type.
COMMON = "gpt panic=10 fsck.mode=skip systemd.gpt_auto=0"


def arguments(slot: Slot, own: str) -> str:
    return f"boot=k8r k8r.slot={slot} {COMMON} {' '.join(own.split())}".strip()
