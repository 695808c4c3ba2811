"""Signatures with the real ssh-keygen: who may sign, for which purpose, and what a change to either does."""

from __future__ import annotations

from pathlib import Path

import pytest

from k8r_agent.effects.commands import commands
from k8r_agent.errors import SignatureError
from k8r_agent.image.signature import verify

DATA = b"format = 1\n"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys one and two, and the signature of DATA by key one."""
    directory = tmp_path_factory.mktemp("keys")
    for name in ("one", "two"):
        commands().run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(directory / name)])
    (directory / "data").write_bytes(DATA)
    for namespace in ("k8r-bundle", "file"):
        commands().run(["ssh-keygen", "-q", "-Y", "sign", "-f", str(directory / "one"), "-n", namespace,
                        str(directory / "data")])
        (directory / "data.sig").rename(directory / f"{namespace}.sig")
    return directory


def check(desk: Path, *lines: str, data: bytes = DATA, namespace: str = "k8r-bundle") -> str:
    """`lines` are the files of allowed signers; {one} and {two} stand for the keys."""
    files = []
    keys = {name: " ".join((desk / f"{name}.pub").read_text().split()[:2]) for name in ("one", "two")}
    for number, line in enumerate(lines):
        files.append(desk / f"signers-{number}")
        files[-1].write_text(line.format(**keys))
    return verify(commands(), data, (desk / f"{namespace}.sig").read_bytes(),
                  signers=[*files, desk / "a-file-that-does-not-exist"])


@pytest.mark.parametrize("lines", [
    ("maintainer {one}",),
    ("# the admin's\nother {two}", "maintainer {one}\n"),
    ('maintainer namespaces="k8r-bundle" {one}\n',),
    ("maintainer,*@example.org {one}\n",),
])
def test_an_allowed_key_is_accepted_by_its_name(desk: Path, lines: tuple[str, ...]) -> None:
    assert check(desk, *lines) == "maintainer"


@pytest.mark.fault(11)
@pytest.mark.parametrize(("lines", "says"), [
    (("maintainer {two}\n",), "not allowed: ssh-ed25519 SHA256:"),
    (('maintainer namespaces="git" {one}\n',), "does not fit"),
    (('maintainer valid-before="20200101" {one}\n',), ""),
    (("# nobody\n",), "no key is allowed"),
    ((), "no key is allowed"),
])
def test_others_are_not(desk: Path, lines: tuple[str, ...], says: str) -> None:
    with pytest.raises(SignatureError) as caught:
        check(desk, *lines)
    assert says in str(caught.value)


@pytest.mark.fault(11)
def test_a_changed_manifest_and_another_purpose_are_refused(desk: Path) -> None:
    for changes in ({"data": DATA + b" "}, {"namespace": "file"}):
        with pytest.raises(SignatureError) as caught:
            check(desk, "maintainer {one}\n", **changes)
        assert "does not fit" in str(caught.value)
