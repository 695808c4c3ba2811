from __future__ import annotations

import re
from pathlib import Path

import pytest

from k8r_agent import config
from k8r_agent.config import legacy


@pytest.mark.parametrize(("raw", "value"), [
    ("plain", "plain"), ("'single $HOME'", "single $HOME"), ('"double"', "double"), ('"a"\'b\'c', "abc"),
    ("", ""), ('""', ""), ("v  # comment", "v"), ('"with # inside"', "with # inside"), (r'"a\"b\$c"', 'a"b$c'),
    ("http://example.org/x/", "http://example.org/x/"), ('"a\\\nb"', "ab"), ("'two\nlines'", "two\nlines"),
    ("24h0m0s", "24h0m0s"), ("10.244.0.0/16", "10.244.0.0/16"),
])
def test_values_as_a_shell_reads_them(raw: str, value: str) -> None:
    assert legacy.unquote(raw) == value


@pytest.mark.parametrize(("raw", "says"), [
    ("$(reboot)", "command substitution"), ("`reboot`", "command substitution"),
    ('"$(reboot)"', "command substitution"),
    ('"a`id`"', "command substitution"), ("$HOME/x", "another variable"), ('"${A}"', "another variable"),
    ("a; reboot", "quote the value"), ("a && b", "unexpected '&&'"), ("a|b", "quote the value"),
    ("a b", "quote the value"),
    ("*.img", "expand"), ("~/x", "expand"), ("{a,b}", "expand"), ("'open", "not closed"), ('"open', "not closed"),
    ("<(id)", "quote the value"), ("a\\ b", "quote the value"), ("$'x'", "another variable"),
])
def test_what_a_shell_would_run_or_replace_is_refused(raw: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        legacy.unquote(raw)


def test_a_legacy_file(tmp_path: Path) -> None:
    file = tmp_path / "variables.cfg"
    file.write_text("# k8r\nIMAGE=ubuntu.img\nexport K8S_VERSION=1.29.3\nTOKEN_TTL=\"24h\"\n"
                    "KUBEADM_JOIN_STRING='kubeadm join 10.0.0.1:6443 \\\n --token abc.def'\n"
                    "HTTP_IMAGE_URL=\"http://example.org/k8r/image.img.xz\"\nMINE=1\n")
    found = legacy.read(file)
    assert not found.problems
    assert [(e.section, e.key, e.value, e.where) for e in found.entries] == [
        ("update", "source", "http://example.org/k8r/", f"{file}:7")]
    text = "\n".join(found.notes)
    assert "K8S_VERSION = '1.29.3' is recognised but not used" in text
    assert "abc.def" not in text
    assert "MINE is not a variable of k8r" in text
    assert "IMAGE belongs to the build host" in text
    assert "allow_legacy" in text


def test_commands_in_it_are_errors_with_a_line_and_never_run(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    file = tmp_path / config.LEGACY
    file.parent.mkdir(parents=True)
    file.write_text(f"K8S_VERSION=$(touch {witness})\ntouch {witness}\nTOKEN_TTL=`touch {witness}`\n"
                    "HTTP_IMAGE_URL='http://example.org/'\n")
    found = config.read_all(tmp_path)
    assert [str(p).split(": ")[0] for p in found.problems] == [f"{file}:{line}" for line in (1, 2, 3)]
    assert found.settings.update.source == "http://example.org/"
    assert not found.settings.update.allow_legacy
    assert not witness.exists()


def test_new_files_win_over_it(tmp_path: Path) -> None:
    file = tmp_path / config.LEGACY
    file.parent.mkdir(parents=True)
    file.write_text("HTTP_IMAGE_URL=http://old.example/\n")
    new = tmp_path / "etc/k8r/agent.toml"
    new.parent.mkdir(parents=True)
    new.write_text('[update]\nsource = "http://new.example/"\n')
    assert config.load(tmp_path).update.source == "http://new.example/"


def test_a_file_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    assert "cannot be read" in str(legacy.read(tmp_path).problems[0])
    file = tmp_path / "v"
    file.write_bytes(b"A=\xff")
    assert "UTF-8" in str(legacy.read(file).problems[0])
    file.write_bytes(b"#" * (300 << 10))
    assert "larger" in str(legacy.read(file).problems[0])
