"""kubeadm's complaints in words: what its checks and known messages mean, and what to do (kubeadm-messages.toml).

Its exit codes say nothing any more (1 for everything in current releases), so only its text is looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from k8r_agent.config import toml
from k8r_agent.errors import ClusterError
from k8r_agent.model.secrets import redact

TABLE = Path(__file__).with_name("kubeadm-messages.toml")
FORMAT = 1
_MAX = 300  # characters of kubeadm's own words
_CHECK = re.compile(r"^\s*\[ERROR ([^\]\s]+)\]: (.*(?:\n(?!\s*\[(?:ERROR|WARNING|preflight)|error |To see ).*)*)",
                    re.MULTILINE)
# Lines that stand in nearly every output and say nothing about a failure; klog's informational ones too.
_NOISE = re.compile(r"To see the stack trace|If you know what you are doing|^\[(?!ERROR)|^\s*\[WARNING|^[IW]\d{4} ")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One row of the table; `name` is "" for a message."""

    name: str
    says: str
    cause: str
    remedy: str
    outside: bool = False


@dataclass(frozen=True, kw_only=True)
class Finding:
    """`name` of the check, or "" for a message; `said` in kubeadm's words, without secrets; `outside`: nothing is
    wrong with this system."""

    name: str
    said: str
    cause: str
    remedy: str
    outside: bool = False


def findings(output: str) -> tuple[Finding, ...]:
    """What kubeadm's output complains about. Preflight checks all, else the first message that is known; () when
    nothing is."""
    checks = tuple(_check(name, said.strip()) for name, said in _CHECK.findall(output))
    return checks or tuple(_messages(output))[:1]


def explain(command: str, output: str) -> ClusterError:
    """`command` for people, such as "kubeadm join"; `output` all that it wrote."""
    found = findings(output)
    what = f"{command} failed"
    if not found:
        return ClusterError(what, why=_last_words(output), hint="journalctl -u kubelet -u containerd; this message of "
                            "kubeadm is not one that this agent knows")
    return ClusterError(what, why="; ".join(dict.fromkeys(_sentence(one) for one in found)),
                        hint="; ".join(dict.fromkeys(one.remedy for one in found)))


def only_outside(output: str) -> bool:
    """There is a complaint, and nothing of it is wrong with this system."""
    found = findings(output)
    return bool(found) and all(one.outside for one in found)


def _sentence(found: Finding) -> str:
    return f"{found.cause} ({found.name}: {found.said})" if found.name else f"{found.cause} ({found.said})"


def _check(name: str, said: str) -> Finding:
    entry = next(entry for entry in entries()
                 if entry.name and re.fullmatch(entry.name, name) and re.search(entry.says, said))
    return Finding(name=name, said=_short(said), cause=entry.cause, remedy=entry.remedy, outside=entry.outside)


def _messages(output: str) -> Iterator[Finding]:
    for entry in entries():
        match = None if entry.name else re.search(entry.says, output)
        if match:
            line = output[output.rfind("\n", 0, match.start()) + 1:].partition("\n")[0]
            yield Finding(name="", said=_short(line), cause=entry.cause, remedy=entry.remedy, outside=entry.outside)


def _short(text: str) -> str:
    """One line, without secrets."""
    line = " ".join(redact(text).split()).removeprefix("error: ")
    return line if len(line) <= _MAX else f"{line[:_MAX]}…"


def _last_words(output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip() and not _NOISE.search(line)]
    return _short(lines[-1]) if lines else "it wrote nothing that says why"


@cache
def entries() -> tuple[Entry, ...]:
    """The table, checks before messages, each in the file's order."""
    table = toml.loads(TABLE.read_text())
    assert table["format"] == FORMAT, "the table belongs to this file"
    return tuple(Entry(name=row.get("name", ""), says=row.get("says", ""), cause=row["cause"], remedy=row["remedy"],
                       outside=row.get("outside", False))
                 for kind in ("check", "message") for row in table[kind])
