"""The kernel arguments that the boot protocol itself sets, before a slot's own."""

from __future__ import annotations

from k8r_agent.model.slots import Slot

# panic: nothing hangs. fsck.mode=skip: the initramfs decides, with a clock floor. gpt_auto=0: systemd must not mount
# partitions that it finds by type.
COMMON = "panic=10 fsck.mode=skip systemd.gpt_auto=0"
# Use the backup table after a torn write. Only for disks that have a GPT: on one with an MBR the kernel would take the
# backup that an earlier life of the disk may have left at its end (block/partitions/efi.c).
GPT = "gpt"


def arguments(slot: Slot, own: str, *, gpt: bool) -> str:
    return " ".join(["boot=k8r", f"k8r.slot={slot}", *([GPT] if gpt else []), COMMON, *own.split()])
