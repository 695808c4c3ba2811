"""KVM where it really works, else TCG: some machines offer a /dev/kvm under which an ordinary guest hangs."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

KVM = ("-accel", "kvm", "-cpu", "host")
# Emulating more features costs a quarter more time. Of the default, a gigabyte of translated code, whatever the guest
# frees is thrown out piece by piece when the page is used again: minutes in which nothing else happens. A guest with
# more code than that in use at once, as a Kubernetes control plane, has all of it translated anew again and again: 99
# times in 23 minutes, and twice in 12 with a gigabyte.
TB_SIZE = 128  # MiB
PROBE_SECONDS = 5.0


@dataclass(frozen=True)
class Firmware:
    code: Path
    vars: Path


def firmware() -> Firmware:
    """OVMF without Secure Boot, as Debian and Ubuntu install it."""
    for suffix in ("_4M.fd", ".fd"):
        code, variables = Path(f"/usr/share/OVMF/OVMF_CODE{suffix}"), Path(f"/usr/share/OVMF/OVMF_VARS{suffix}")
        if code.exists() and variables.exists():
            return Firmware(code, variables)
    raise FileNotFoundError("OVMF is not installed (package ovmf)")


def pflash(code: Path, variables: Path) -> list[str]:
    return ["-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={code}",
            "-drive", f"if=pflash,format=raw,unit=1,file={variables}"]


def _kvm_boots() -> bool:
    """A five second test boot: the firmware alone must reach its boot manager under KVM."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    with tempfile.TemporaryDirectory() as scratch:
        log, variables = Path(scratch, "serial"), Path(scratch, "vars")
        shutil.copyfile(firmware().vars, variables)
        argv = ["qemu-system-x86_64", "-machine", "q35", *KVM, "-m", "256", "-display", "none", "-nodefaults",
                "-serial", f"file:{log}", *pflash(firmware().code, variables)]
        guest = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            end = time.monotonic() + PROBE_SECONDS
            while time.monotonic() < end and guest.poll() is None:
                if log.exists() and b"BdsDxe" in log.read_bytes():
                    return True
                time.sleep(0.1)
            return False
        finally:
            guest.kill()
            guest.wait()


@functools.cache
def has_kvm() -> bool:
    """K8R_LAB_ACCEL=tcg forces emulation."""
    return os.environ.get("K8R_LAB_ACCEL") != "tcg" and _kvm_boots()


def acceleration(tb_size: int = TB_SIZE) -> tuple[str, ...]:
    """QEMU's options. `tb_size`: room for translated code, MiB."""
    return KVM if has_kvm() else ("-accel", f"tcg,thread=multi,tb-size={tb_size}", "-cpu", "qemu64")
