"""`k8r-image` at the prompt: what it accepts, what it says, how it ends."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from pathlib import Path
from typing import cast

import pytest

from k8r_agent.build import signing
from k8r_agent.build.__main__ import main, render
from k8r_agent.build.arguments import parser
from k8r_agent.errors import UsageError

KEY = "ssh-ed25519 AAAAC3Nza comment with words"
BUILD = ["build", "--release", "1", "--version", "1", "--out", "o"]


@pytest.mark.parametrize("argv", [
    [], ["build"], [*BUILD, "--size", "4"], [*BUILD, "--deb", "/none.deb"], [*BUILD, "--loader", "lilo"],
    ["build", "--release", "0", "--version", "1", "--out", "o"], ["disk", "--bundle", "b"], ["keygen"]])
def test_usage_errors_end_with_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert "usage: k8r-image" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["build", "bundle", "disk", "sign", "keygen"])
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([verb, "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert all(option in out for option in ("--json", "--dry-run", "--quiet"))


def test_the_manual_page_knows_every_option() -> None:
    page = (Path(__file__).resolve().parents[2] / "man/k8r-image.8.md").read_text()
    group = parser()._subparsers
    assert group is not None
    actions = cast("dict[str, ArgumentParser]", group._group_actions[0].choices)
    for verb, sub in actions.items():
        assert f"**k8r-image {verb}**" in page
        for action in sub._actions:
            for option in action.option_strings:
                if option.startswith("--") and option != "--help":
                    assert option in page, f"{verb} {option}"


def test_a_failure_has_a_reason_and_a_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["sign", str(tmp_path), "--sign-key", str(tmp_path / "k")])
    captured = capsys.readouterr()
    assert code == 1 and "is not a bundle: it has no manifest.toml" in captured.err and captured.out == ""


def test_a_failure_is_data_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sign", "--json", str(tmp_path), "--sign-key", str(tmp_path / "k")]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["format_version"] == 1 and found["error"]["code"] == "build"


def test_a_key_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "key.pub").write_text("precious")
    assert main(["keygen", str(tmp_path / "key")]) == 2
    assert "never overwritten" in capsys.readouterr().err
    assert (tmp_path / "key.pub").read_text() == "precious"


def test_a_signer_is_good_for_bundles_only() -> None:
    assert signing.signer_line("lab", KEY) == 'lab namespaces="k8r-bundle" ssh-ed25519 AAAAC3Nza\n'
    assert signing.principal_of(KEY) == "k8r-release"
    assert signing.principal_of("ssh-ed25519 AAAA ops@example") == "ops@example"
    for principal, key in (("two words", KEY), ("a,b", KEY), ("lab", "-----BEGIN"), ("lab", "")):
        with pytest.raises(UsageError):
            signing.signer_line(principal, key)


def test_what_was_made_is_said_in_a_few_lines() -> None:
    report = {"changed": False, "bundle": "/o/bundle", "release": 2, "version": "2.1", "os": "Debian", "signed": False,
              "artifacts": {"image": {"file": "image.img.zst", "size": 1 << 20, "unpacked_size": 1 << 30}}}
    text = render(report)
    assert "nothing changed" in text and "NOT SIGNED" in text and "image.img.zst  1.0 MiB, unpacked 1.0 GiB" in text
