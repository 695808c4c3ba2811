"""The completion in a real bash, and under shellcheck."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parent.parent.parent / "completion/k8r-agent"
ASK = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 ))
_k8r_agent
printf '%s\\n' "${COMPREPLY[@]}"
"""


def complete(*words: str, cwd: Path = Path("/")) -> set[str]:
    done = subprocess.run(["bash", "-c", ASK, "bash", str(FILE), "k8r-agent", *words], capture_output=True, text=True,
                          cwd=cwd, check=True, timeout=20)
    assert done.stderr == ""
    return set(done.stdout.split())


@pytest.mark.parametrize(("words", "wanted"), [
    (("st",), {"status"}), (("task", "w"), {"watch"}), (("reboot", "--slot", ""), {"image", "working"}),
    (("slot", "verify", ""), {"image"}), (("config", "show", "node."), {"node.hostname", "node.role"}),
    (("reinstall", "--d"), {"--dry-run"}), (("events", "--txn", ""), set()), (("--json", "task", "c"), {"cancel"}),
    (("boot", ""), {"check", "--help"}),
])
def test_what_is_offered(words: tuple[str, ...], wanted: set[str]) -> None:
    assert complete(*words) == wanted


def test_hidden_verbs_are_not_offered() -> None:
    assert not {"runner", "identity"} & complete("")
    assert not {"health", "confirm", "deadline"} & complete("boot", "")


def test_what_errors_tell_people_to_type_is_offered() -> None:
    assert {"first-boot", "boot"} <= complete("")
    assert "install-assets" in complete("slot", "")


def test_directories_for_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "bundle one").mkdir()
    (tmp_path / "file").write_text("")
    assert complete("update", "", cwd=tmp_path) == {"bundle", "one"}  # one name with a space, split by this test


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="no shellcheck")
def test_shellcheck() -> None:
    done = subprocess.run(["shellcheck", "-s", "bash", str(FILE)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
