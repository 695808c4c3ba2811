"""k8r-agent join: what an operator may hand over, and that a secret is neither shown nor kept where it need not be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from k8r_agent.errors import Exit
from k8r_agent.model.cluster import JoinSecret
from k8r_agent.store import cluster as store
from tests.fakes.prompt import Prompt
from tests.fakes.simple import ToyStep

TOKEN, HASH = "abcdef.0123456789abcdef", "sha256:" + "ab" * 32
COMMAND = f"kubeadm join 192.0.2.10:6443 --token {TOKEN} \\\n    --discovery-token-ca-cert-hash {HASH}\n"
KEY = "0" * 64


@pytest.fixture
def prompt(tmp_path: Path) -> Prompt:
    steps: dict[str, Any] = {"first": ToyStep("first", set())}
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/join.toml").write_text('format = 1\nsummary = "A toy"\nsteps = ["first"]\n')
    return Prompt(tmp_path, steps=steps, tasks=tmp_path / "tasks")


def given(prompt: Prompt, text: str) -> str:
    path = prompt.tmp / "secret"
    path.write_text(text)
    return str(path)


def kept(prompt: Prompt) -> JoinSecret | None:
    return store.join_secret(prompt.world.files)


def test_a_whole_join_command(prompt: Prompt) -> None:
    assert prompt.run("join", "--token-file", given(prompt, COMMAND)) == Exit.OK
    assert kept(prompt) == JoinSecret(endpoint="192.0.2.10:6443", token=TOKEN, ca_hashes=(HASH,))
    txn = prompt.node.transaction()
    assert txn is not None and txn.args == {}
    assert TOKEN not in prompt.out + prompt.err


def test_the_parts_one_by_one(prompt: Prompt) -> None:
    code = prompt.run("join", "--endpoint", "cp.example:6443", "--ca-cert-hash", HASH, "--control-plane",
                      "--token-file", given(prompt, f"{TOKEN}\n"))
    assert code == Exit.OK
    assert kept(prompt) == JoinSecret(endpoint="cp.example:6443", token=TOKEN, ca_hashes=(HASH,),
                                      role="control-plane")


def test_a_join_command_of_a_control_plane(prompt: Prompt) -> None:
    prompt.run("join", "--token-file", given(prompt, f"{COMMAND.strip()} --control-plane --certificate-key {KEY}"))
    found = kept(prompt)
    assert found is not None and (found.role, found.certificate_key) == ("control-plane", KEY)


def test_the_configuration_completes_what_is_given(prompt: Prompt) -> None:
    prompt.configure(f'[kubernetes]\nendpoint = "cp:6443"\nca_cert_hashes = ["{HASH}"]\n')
    assert prompt.run("join", "--token-file", given(prompt, TOKEN)) == Exit.OK
    assert kept(prompt) == JoinSecret(endpoint="cp:6443", token=TOKEN, ca_hashes=(HASH,))


@pytest.mark.parametrize("text, wanted", [
    ("", "holds no bootstrap token"), ("abcdef.0123", "holds no bootstrap token"),
    ("rm -rf /", "neither a token nor"), (f"kubeadm join --token {TOKEN}", "not a usable"),
    (f"kubeadm join cp:6443 --token {TOKEN[:-1]} --discovery-token-ca-cert-hash {HASH}", "no bootstrap token"),
    (TOKEN, "endpoint (--endpoint) is missing"), (f"kubeadm join cp:6443 --token {TOKEN}", "hash of the cluster's CA"),
])
def test_what_cannot_be_used_is_told_without_showing_it(prompt: Prompt, text: str, wanted: str) -> None:
    assert prompt.run("join", "--token-file", given(prompt, text)) == Exit.USAGE
    assert wanted in prompt.err and "0123" not in prompt.err
    assert kept(prompt) is None and prompt.node.transaction() is None and not prompt.node.queue.pending()


def test_a_file_that_is_not_there(prompt: Prompt) -> None:
    assert prompt.run("join", "--token-file", "/nonexistent") == Exit.USAGE and "cannot be read" in prompt.err


def test_a_dry_run_keeps_nothing(prompt: Prompt) -> None:
    prompt.run("join", "--token-file", given(prompt, COMMAND), "--dry-run")
    assert kept(prompt) is None and prompt.node.transaction() is None
