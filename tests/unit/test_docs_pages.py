"""What is written about the code is what the code does: generated parts are current, and nothing is left out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from k8r_agent.cli import completion, manual
from k8r_agent.cli.verbs import VERBS
from k8r_agent.config.legacy import KNOWN
from k8r_agent.config.table import TABLE
from k8r_agent.errors import Exit

ROOT = Path(__file__).resolve().parent.parent.parent
AGENT, TOML, RECOVERY = (ROOT / "man" / name for name in (
    "k8r-agent.8.md", "k8r-agent.toml.5.md", "k8r-recovery.7.md"))
# A verb where it is meant as a command: quoted, with its path, or as a hint.
NAMED = re.compile(r"(?:`|bin/|hint=f?\"(?:run `)?)k8r-agent ([a-z][a-z-]+)(?: ([a-z][a-z-]+))?")


@pytest.mark.parametrize("page", [AGENT, TOML], ids=lambda page: page.name)
def test_generated_parts_are_current(page: Path) -> None:
    assert page.read_text() == manual.fill(page.read_text()), f"python3 -m k8r_agent.cli.manual {page.name}"


def test_the_completion_is_current() -> None:
    assert (ROOT / "completion/k8r-agent").read_text() == completion.script(), \
        "python3 -m k8r_agent.cli.completion > completion/k8r-agent"


def test_every_verb_is_in_the_manual() -> None:
    text = AGENT.read_text()
    for path, _ in completion.leaves():
        assert f"## **{path}**" in text


def test_every_key_is_in_the_manual() -> None:
    text = TOML.read_text()
    for row in TABLE:
        assert f"**{row.key}** = " in text and f"## [{row.section}]" in text
    for name in KNOWN:
        assert f"**{name}**" in text


@pytest.mark.parametrize("document", [AGENT, ROOT / "README.md"], ids=lambda path: path.name)
def test_every_exit_code_is_written_down(document: Path) -> None:
    text = document.read_text()
    assert all(re.search(rf"\*\*{int(code)}\*\*|\| {int(code)} ", text) for code in Exit)


def documents() -> list[Path]:
    return [AGENT, TOML, RECOVERY, *(p for p in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
                                     if p.exists())]


@pytest.mark.parametrize("page", documents(), ids=lambda page: page.name)
def test_no_page_names_a_verb_or_key_that_does_not_exist(page: Path) -> None:
    text = page.read_text()
    verbs = {verb.name: {member.name for member in verb.members} for verb in VERBS}
    for first, second in re.findall(r"k8r-agent(?:\*\*)? (?:\*\*)?([a-z][a-z-]+)(?: ([a-z][a-z-]+))?", text):
        if first in {"does", "itself", "is", "has", "needs", "runs", "package", "checks", "and", "on"}:
            continue
        assert first in verbs, f"k8r-agent {first}"
        if verbs[first] and second:
            assert second in verbs[first], f"k8r-agent {first} {second}"
    sections = {row.section for row in TABLE}
    names = {row.name for row in TABLE}
    for section, key in re.findall(r"(?:\*\*|`)([a-z]+)\.([a-z_]+)(?:\*\*|`| =)", text):
        if section in sections:
            assert f"{section}.{key}" in names, f"{section}.{key}"


def sources() -> list[Path]:
    kinds = (ROOT / "k8r_agent", ROOT / "units", ROOT / "etc", ROOT / "debian")
    endings = ("", ".py", ".toml", ".service", ".timer", ".path", ".postinst", ".prerm")
    return [path for top in kinds for path in sorted(top.rglob("*"))
            if path.is_file() and path.suffix in endings
            and "k8r-agent/" not in str(path.relative_to(ROOT))]


def test_every_hint_and_unit_names_a_verb_that_exists() -> None:
    verbs = {verb.name: {member.name for member in verb.members} for verb in VERBS}
    for path in sources():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        for first, second in NAMED.findall(text):
            assert first in verbs, f"{path.relative_to(ROOT)}: k8r-agent {first}"
            if verbs[first] and second:
                assert second in verbs[first], f"{path.relative_to(ROOT)}: k8r-agent {first} {second}"


@pytest.mark.parametrize("page", documents(), ids=lambda page: page.name)
def test_files_that_a_page_links_to_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target
