"""GRUB's own parser on the scripts inside the two EFI programs, and grub-mkimage on the programs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from k8r_agent.boot import grubimage
from k8r_agent.build import loaders
from k8r_agent.effects.commands import commands

pytestmark = pytest.mark.skipif(shutil.which("grub-script-check") is None, reason="no grub-common")


@pytest.mark.parametrize("script", [grubimage.SCRIPT, grubimage.GUARD_SCRIPT], ids=["loader", "guard"])
def test_syntax(script: str) -> None:
    done = subprocess.run(["grub-script-check"], input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    broken = subprocess.run(["grub-script-check"], input=script + "if true\n", capture_output=True, text=True,
                            check=False)
    assert broken.returncode != 0


@pytest.mark.skipif(not Path("/usr/lib/grub/x86_64-efi").is_dir(), reason="no grub-efi-amd64-bin")
@pytest.mark.parametrize("program", [grubimage.LOADER, grubimage.GUARD], ids=["loader", "guard"])
def test_the_programs_can_be_made(tmp_path: Path, program: grubimage.Program) -> None:
    loaders._make(program, tmp_path / "made.efi", tmp_path / "work", commands())
    assert (tmp_path / "made.efi").read_bytes()[:2] == b"MZ"
