"""k8r.toml on the boot partition: the one a person gave, checked before anything is flashed, or one to fill in."""

from __future__ import annotations

from pathlib import Path

from k8r_agent.config import ConfigProblems, fragments
from k8r_agent.config.merge import merge
from k8r_agent.config.setting import Setting
from k8r_agent.config.table import SECTIONS, TABLE, toml_text
from k8r_agent.errors import UsageError

NAME = "k8r.toml"
_HEAD = """\
# Settings of this node. Edit this file on any computer after flashing, before the first boot.
# To set something, remove the # before its line and before its [section]. Given here are the defaults.
# See k8r-agent.toml(5).
"""


def read(path: Path | None) -> bytes:
    """Raises ConfigProblems that lists every mistake, UsageError when there is no such file."""
    if path is None:
        return template().encode()
    if not path.is_file():
        raise UsageError(f"--config {path}: no such file")
    loaded = merge([fragments.read(path)])
    if loaded.problems:
        raise ConfigProblems(loaded.problems)
    return path.read_bytes()


def template() -> str:
    """All settings with their defaults, commented out."""
    lines = [_HEAD]
    for section, text in SECTIONS.items():
        lines.append(f"#[{section}]  # {text}")
        lines += [_line(row) for row in TABLE if row.section == section]
        lines.append("")
    return "\n".join(lines)


def _line(row: Setting) -> str:
    if row.default is None:  # nothing that could be written means "not set"
        return f"# {row.key} = {row.kind}  # {row.help}"
    return f"#{row.key} = {toml_text(row, row.default)}  # {row.help}"
