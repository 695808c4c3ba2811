"""Taking used secrets out of a configuration file, and leaving everything else as somebody wrote it."""

from __future__ import annotations

import re
from pathlib import Path

from k8r_agent.config.fragments import parse
from k8r_agent.config.settings import SECRETS

_HERE = Path("k8r.toml")


def secrets(data: bytes) -> tuple[str, ...]:
    """Names of the secrets that are set in the file."""
    fragment = parse(data.decode("utf-8-sig", "replace"), _HERE)
    names = (f"{entry.section}.{entry.key}" for entry in fragment.entries if entry.value)
    return tuple(name for name in names if name in SECRETS)


def blanked(data: bytes) -> bytes:
    """With an empty value for each secret; a remark says why. Bytes that are no part of it are not touched."""
    for name in SECRETS:
        key = rb"(?:kubernetes[ \t]*\.[ \t]*)?\"?" + name.rpartition(".")[2].encode() + rb"\"?"
        value = rb"""(?:\"[^\"\r\n]+\"|'[^'\r\n]+')[^\r\n]*"""
        line = re.compile(rb"^([ \t]*" + key + rb"[ \t]*=[ \t]*)" + value, re.MULTILINE)
        data = line.sub(rb'\1""  # used and removed by this node', data)
    return data
