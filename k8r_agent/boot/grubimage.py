"""The two EFI programs that are made with grub-mkimage: the GRUB loader itself, and the guard before systemd-boot.

The boot protocol's script lies inside the program, so a damaged FAT cannot take it away and a node never changes it.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent

from k8r_agent.boot import grubfiles, sdfiles
from k8r_agent.boot.assetfiles import SUMS
from k8r_agent.boot.kernelargs import COMMON, GPT
from k8r_agent.boot.programs import SD_BOOT
from k8r_agent.model.boot import INITRD, KERNEL


def _hashsum(where: str, sums: str) -> str:
    """The beginning of an `if` that holds where the files in a directory are what a list in it says."""
    return f'if hashsum --hash sha256 --check "{where}/{sums}" --prefix "{where}"'


# $cmdpath is the directory that the firmware loaded the program from: the one sure way to the right disk. The words
# `gpt` and $cmdline are nothing when they are empty.
_START = f"""\
regexp --set=1:esp '^\\(([^)]*)\\)' "$cmdpath"
set root="$esp"
probe --set=bootpart --part-uuid "$root"
probe --set=partmap --partmap "$root"
set gpt=
if [ "$partmap" = gpt ]; then set gpt={GPT}; fi

# SLOT DIRECTORY LIST: returns when something in that list is not there, or is not what its hash says. All that can be
# checked is checked before `linux`: after a kernel was loaded, GRUB 2.06 starts a second one with an empty command
# line. A damaged kernel can hang without a word; a damaged initrd ends in a panic, which reboots.
function k8r_boot {{
  set slot="$1"
  set dir="$2"
  set list="$3"
  if [ ! -s "/$slot/$dir/{INITRD}" ]; then return 1; fi
  if [ ! -s "/$slot/$dir/{KERNEL}" ]; then return 1; fi
  if [ -f "/$slot/$dir/$list" ]; then
    {_hashsum("/$slot/$dir", "$list")}; then true
    else
      echo "k8r: $slot/$dir is damaged"
      return 1
    fi
  fi
  set cmdline=
  load_env --file "($root)/$slot/$dir/{grubfiles.ARGUMENTS}" cmdline
  echo "k8r: $slot/$dir"
  if linux "/$slot/$dir/{KERNEL}" boot=k8r "k8r.slot=$slot" $gpt {COMMON} "k8r.bootpart=$bootpart" $cmdline; then
    if initrd "/$slot/$dir/{INITRD}"; then boot; fi
    sleep 5
    reboot
  fi
}}
"""


def _either(first: str, working_list: str) -> str:
    """The slot that a variable names, else the other one. Never a halt: what fails now (a disk that is late, a cable,
    a cold card) may work in a minute, and nobody stands there to press a key. The text stays on the screen as long."""
    image, working = f'k8r_boot image "$image_dir" {SUMS}', f'k8r_boot working "$working_dir" {working_list}'
    return f"""\
if [ "${first}" = image ]; then
  {image}
  {working}
else
  {working}
  {image}
fi
echo "k8r: neither slot can be booted: kernel or initrd of both are missing or damaged."
echo "k8r: trying again in 60 s. Help: k8r-recovery(7)"
sleep 60
reboot
"""


# Which slot, where the working slot has no tries left. Mostly the image slot; but that may hold a release that was
# never booted before and does not come up, while the working slot, which is sound, lost its tries to power cuts. So
# the image slot has tries as well (whoever comes up in it refills them), and then the working slot has a turn.
_TURN = f"""\
set pick=image
if [ "$image_tries" = 0 ]; then
  set pick=working
  set image_tries={grubfiles.IMAGE_TRIES}
elif [ "$image_tries" = 1 ]; then set image_tries=0
elif [ "$image_tries" = 2 ]; then set image_tries=1
else set image_tries=2
fi
"""

# The image slot's initrd is checked as well: no try is counted when that slot is the primary, so an initrd that ends
# in a panic would do so for ever. The working slot's is not, for the time that it takes: there, tries are counted.
SCRIPT = f"""\
set primary=working
set once=
set tries=3
set image_tries={grubfiles.IMAGE_TRIES}
set image_dir=a
set working_dir=a
{_START}
set envfile="($root)/{grubfiles.ENV}"
load_env --file "$envfile" primary once tries image_tries image_dir working_dir

function k8r_save {{
  save_env --file "$envfile" primary once tries image_tries image_dir working_dir
}}

set pick="$primary"
if [ -n "$once" ]; then
  set armed="$once"
  set once=
  if k8r_save; then set pick="$armed"; fi
elif [ "$primary" = working ]; then
  if [ "$tries" = 0 ]; then
{indent(_TURN, "    ")}    k8r_save
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
{_either("pick", grubfiles.KERNEL_SUM)}"""

# systemd-boot ends, and the firmware then waits at its shell, when a kernel or initrd cannot be loaded; it looks at no
# hashes, so a rotten kernel hangs without a word, and it counts no tries of the image slot. So the guard looks before
# it, as GRUB does in its place, counts those, and boots a slot by itself where something is damaged that systemd-boot
# could start, or where that is destroyed or gave up. What is armed the guard cannot see: GRUB reads no EFI variables.
# The decision, the tries left and the directories it reads from systemd-boot's own files (boot/sdfiles.py).
GUARD_SCRIPT = f"""\
{_START}
set primary=working
load_env --file "($root)/{sdfiles.LOADER_CONF}" primary
set image_dir=a
load_env --file "($root)/{sdfiles.ENTRIES}/k8r-image.conf" dir
if [ -n "$dir" ]; then set image_dir="$dir"; fi
set dir=
set left=
for entry in "($root)/{sdfiles.ENTRIES}"/k8r-working*.conf; do
  load_env --file "$entry" dir
  if regexp '\\+[1-9]' "$entry"; then set left=yes; fi
done
set working_dir=a
if [ -n "$dir" ]; then set working_dir="$dir"; fi

set image_tries=
if [ -s "/{sdfiles.TURNS}" ]; then load_env --file "($root)/{sdfiles.TURNS}" image_tries; fi
if [ "$primary" = working -a -z "$left" -a -n "$image_tries" ]; then
{indent(_TURN, "  ")}  save_env --file "($root)/{sdfiles.TURNS}" image_tries
  if [ "$pick" = working ]; then k8r_boot working "$working_dir" {SUMS}; fi
fi

set sound=yes
if [ -f "/working/$working_dir/{grubfiles.KERNEL_SUM}" ]; then
  {_hashsum("/working/$working_dir", grubfiles.KERNEL_SUM)}; then true
  else
    set sound=no
    set primary=image
  fi
fi
set list={grubfiles.KERNEL_SUM}
if [ "$primary" = image -o -z "$left" ]; then set list={SUMS}; fi
if [ "$primary" = image -o -f "/image/$image_dir/$list" ]; then
  {_hashsum("/image/$image_dir", "$list")}; then true
  else set sound=no
  fi
fi
if [ "$sound" = yes ]; then
  if chainloader "/{SD_BOOT}"; then boot; fi
  echo "k8r: systemd-boot gave up"
fi
{_either("primary", SUMS)}"""

_EARLY = "source (memdisk)/grub.cfg\nsleep 5\nreboot\n"
# Should the script not even be read: what it guards.
_EARLY_GUARD = f"source (memdisk)/grub.cfg\nchainloader /{SD_BOOT}\nboot\nsleep 5\nreboot\n"


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


def _memdisk(script: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        info = tarfile.TarInfo("grub.cfg")
        info.size, info.mode = len(script), 0o644
        tar.addfile(info, io.BytesIO(script.encode()))
    return buffer.getvalue()


_MODULES = ("memdisk", "tar", "fat", "part_gpt", "part_msdos", "loadenv", "probe", "regexp", "linux", "normal", "test",
            "true", "echo", "sleep", "reboot", "configfile", "boot", "hashsum", "gcry_sha256", "efi_gop", "all_video")
LOADER = Program(modules=_MODULES, files={"early.cfg": _EARLY.encode(), "memdisk.tar": _memdisk(SCRIPT)})
GUARD = Program(modules=(*_MODULES, "chain"),
                files={"early.cfg": _EARLY_GUARD.encode(), "memdisk.tar": _memdisk(GUARD_SCRIPT)})
