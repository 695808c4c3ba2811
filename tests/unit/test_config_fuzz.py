"""Whatever somebody puts into a file: never a crash, and what the parser accepts as a whole is read the same."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from k8r_agent.config import fragments, legacy, merge, toml
from k8r_agent.config.table import TABLE, toml_text
from k8r_agent.errors import ConfigError

TOKEN = "abcdef.0123456789abcdef"
PIECES = st.sampled_from([
    "[node]", "[access]", "[[node]]", "[", "]", "hostname", " = ", '"', "'", '"""', "\n", "\n", "#", "true", "4GiB",
    '"4GiB"', "{", "}", ",", "authorized_keys = [", "\\", "\r", "\t", "node.role = 'worker'", "1979-05-27", "$(x)",
    "`", "${A}", "HTTP_IMAGE_URL=", "KUBEADM_JOIN_STRING=", "kubeadm join", " --token ", " --token=", TOKEN,
    "TOKEN_TTL=", "h:6443", " --discovery-token-ca-cert-hash ", "[kubernetes]", "join_token", "taints = []",
    "pod_cidr", "10.0.0.0/8", "CNI_TYPE=", "export A=", "\0", "é",
])
TEXTS = st.one_of(st.text(max_size=200), st.lists(PIECES, max_size=30).map("".join))


@given(TEXTS)
@settings(max_examples=300)
def test_no_file_is_a_crash(text: str) -> None:
    for parse in (fragments.parse, legacy.parse):
        loaded = merge.merge([parse(text, Path("f"))])
        assert not any(TOKEN[7:] in f"{problem} {problem.hint}" for problem in loaded.problems), loaded.problems
        assert TOKEN[7:] not in str(loaded.notes)
        for row in TABLE:  # and what came out of it can be shown
            toml_text(row, getattr(getattr(loaded.settings, row.section), row.key))


@given(TEXTS)
@settings(max_examples=300)
def test_statement_by_statement_means_the_same_as_the_whole(text: str) -> None:
    try:
        whole = toml.loads(text)
    except ValueError:
        return
    found = fragments.parse(text.replace("\r\n", "\n"), Path("f"))
    if found.problems:  # what no setting uses: arrays of tables, a table said twice
        return
    for entry in found.entries:
        table = whole
        for part in entry.section.split(".") if entry.section else ():
            table = table[part]
        assert table[entry.key] == entry.value


@given(st.binary(max_size=200))
@settings(max_examples=100)
def test_bytes(data: bytes) -> None:
    try:
        fragments.decode(data, where="f")
    except ConfigError as error:
        assert error.hint
