"""The two EFI programs that are made with grub-mkimage: the GRUB loader itself, and the guard before systemd-boot.

The boot protocol's script lies inside the program, so a damaged FAT cannot take it away and a node never changes it.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from k8r_agent.boot import grubfiles
from k8r_agent.boot.kernelargs import COMMON
from k8r_agent.model.boot import INITRD, KERNEL

SD_BOOT = "EFI/systemd/systemd-bootx64.efi"  # where the guard looks for it

# $cmdpath is the directory that the firmware loaded the program from: the one sure way to the right disk.
SCRIPT = f"""\
regexp --set=1:esp '^\\(([^)]*)\\)' "$cmdpath"
set root="$esp"
set envfile="($root)/{grubfiles.ENV}"
set primary=working
set once=
set tries=3
set image_dir=a
set working_dir=a
load_env --file "$envfile" primary once tries image_dir working_dir
probe --set=bootpart --part-uuid "$root"

function k8r_save {{
  save_env --file "$envfile" primary once tries image_dir working_dir
}}

function k8r_boot {{
  set slot="$1"
  if [ "$slot" = image ]; then set dir="$image_dir"; else set dir="$working_dir"; fi
  set cmdline=
  load_env --file "($root)/$slot/$dir/{grubfiles.ARGUMENTS}" cmdline
  echo "k8r: $slot/$dir"
  # All that can be checked is checked before `linux`: after a kernel was loaded, GRUB 2.06 starts a second one with an
  # empty command line. A damaged kernel can hang without a word; a damaged initrd ends in a panic, which reboots.
  if [ ! -s "/$slot/$dir/{INITRD}" ]; then return 1; fi
  if [ -f "/$slot/$dir/{grubfiles.KERNEL_SUM}" ]; then
    if hashsum --hash sha256 --check "/$slot/$dir/{grubfiles.KERNEL_SUM}" --prefix "/$slot/$dir"; then true
    else return 1
    fi
  fi
  if linux "/$slot/$dir/{KERNEL}" boot=k8r "k8r.slot=$slot" {COMMON} "k8r.bootpart=$bootpart" $cmdline; then
    if initrd "/$slot/$dir/{INITRD}"; then boot; fi
    sleep 5
    reboot
  fi
}}

set pick="$primary"
if [ -n "$once" ]; then
  set armed="$once"
  set once=
  if k8r_save; then set pick="$armed"; fi
elif [ "$primary" = working ]; then
  if [ "$tries" = 0 ]; then set pick=image
  else
    if [ "$tries" = 1 ]; then set tries=0
    elif [ "$tries" = 2 ]; then set tries=1
    elif [ "$tries" = 3 ]; then set tries=2
    elif [ "$tries" = 4 ]; then set tries=3
    elif [ "$tries" = 5 ]; then set tries=4
    elif [ "$tries" = 6 ]; then set tries=5
    elif [ "$tries" = 7 ]; then set tries=6
    elif [ "$tries" = 8 ]; then set tries=7
    elif [ "$tries" = 9 ]; then set tries=8
    else set tries=2
    fi
    k8r_save
  fi
fi
if [ "$pick" = image ]; then
  k8r_boot image
  k8r_boot working
else
  k8r_boot working
  k8r_boot image
fi
echo "k8r: neither slot can be loaded; restarting in 10 s"
sleep 10
reboot
"""

_EARLY = "source (memdisk)/grub.cfg\nsleep 5\nreboot\n"

# systemd-boot ends, and the firmware then waits at its shell, when a kernel or initrd cannot be loaded. It has counted
# that boot, so a restart leads to the image slot after the last try.
_GUARD = f"""\
chainloader /{SD_BOOT}
boot
echo "k8r: systemd-boot gave up; restarting in 5 s"
sleep 5
reboot
"""


@dataclass(frozen=True, kw_only=True)
class Program:
    """`files` must lie in a work directory when grub-mkimage runs."""

    modules: tuple[str, ...]
    files: Mapping[str, bytes]

    def argv(self, *, work: Path, output: Path) -> list[str]:
        """For a GRUB >= 2.06 that has its x86_64-efi modules (grub-efi-amd64-bin)."""
        memdisk = ["--memdisk", str(work / "memdisk.tar")] if "memdisk.tar" in self.files else []
        return ["grub-mkimage", "--format=x86_64-efi", f"--output={output}", "--prefix=/grub",
                f"--config={work / 'early.cfg'}", *memdisk, *self.modules]


def _memdisk() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        info = tarfile.TarInfo("grub.cfg")
        info.size, info.mode = len(SCRIPT), 0o644
        tar.addfile(info, io.BytesIO(SCRIPT.encode()))
    return buffer.getvalue()


LOADER = Program(
    modules=("memdisk", "tar", "fat", "part_gpt", "part_msdos", "loadenv", "probe", "regexp", "linux", "normal",
             "test", "true", "echo", "sleep", "reboot", "configfile", "boot", "hashsum", "gcry_sha256",
             "efi_gop", "all_video"),
    files={"early.cfg": _EARLY.encode(), "memdisk.tar": _memdisk()},
)
GUARD = Program(modules=("fat", "part_gpt", "part_msdos", "chain", "boot", "echo", "sleep", "reboot"),
                files={"early.cfg": _GUARD.encode()})
