"""kubeadm's real messages, explained."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from k8r_agent.cluster.explain import entries, explain, findings, only_outside
from k8r_agent.config import toml

DATA = Path(__file__).parents[1] / "data/kubeadm/said.toml"
CASES: list[dict[str, Any]] = toml.loads(DATA.read_text())["case"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["source"])
def test_what_kubeadm_really_said(case: dict[str, Any]) -> None:
    found = findings(case["says"])
    assert [one.name for one in found] == case.get("checks", [""])
    error = explain("kubeadm join", case["says"])
    assert case["cause"] in error.why
    assert error.hint and "\n" not in error.why + error.hint
    assert only_outside(case["says"]) == case.get("outside", False)
    for one in found:
        assert one.said and one.cause != "a check of kubeadm failed"


def test_every_pattern_is_one_and_every_entry_is_complete() -> None:
    assert len(entries()) > 60
    for entry in entries():
        re.compile(entry.says), re.compile(entry.name)
        assert entry.cause and entry.remedy and not entry.cause.endswith("."), entry
        assert entry.name or entry.says
    assert len({(entry.name, entry.says) for entry in entries()}) == len(entries())


def test_no_entry_hides_behind_a_more_general_one() -> None:
    """Of several checks of one name, the one for every text is the last."""
    checks = [entry for entry in entries() if entry.name]
    for number, entry in enumerate(checks):
        assert not any(earlier.name == entry.name and not earlier.says for earlier in checks[:number]), entry.name
    assert checks[-1].name == ".*"


def test_an_unknown_check_keeps_kubeadms_words() -> None:
    error = explain("kubeadm init", "\t[ERROR Brandnew]: the moon is full\n")
    assert "Brandnew: the moon is full" in error.why and error.code == "cluster"


def test_an_unknown_message_is_told_in_kubeadms_last_words() -> None:
    error = explain("kubeadm init", "[init] Using Kubernetes version\nI1121 12:00:00.0 1 x.go:1] hm\n"
                                    "error execution phase foo: bar failed\nTo see the stack trace of this error\n")
    assert error.why == "error execution phase foo: bar failed" and "journalctl" in error.hint
    assert "nothing that says why" in explain("kubeadm init", "").why


def test_a_warning_is_no_error() -> None:
    assert findings("\t[WARNING Swap]: running with swap on is not supported. Please disable swap\n") == ()


def test_no_secret_gets_through() -> None:
    token, key = "abcdef.0123456789abcdef", "0f" * 32
    for text in (f"discovery.bootstrapToken.token: Invalid value: {token}: malformed", f"strange: {token} {key}",
                 f"[ERROR Odd]: {key} {token}"):
        error = explain("kubeadm join", text)
        assert "0123456789" not in error.why and key not in error.why


def test_a_long_text_is_cut_and_a_check_of_several_lines_is_one_line() -> None:
    found = findings("\t[ERROR ImagePull]: failed to pull image x: output: a\nb\n, error: exit status 1\n"
                     f"\t[ERROR CRI]: {'y' * 900}\n[preflight] If you know\n")
    assert [one.name for one in found] == ["ImagePull", "CRI"]
    assert found[0].said.endswith("a b , error: exit status 1")
    assert len(found[1].said) < 310
