"""Configuration: fragments → merged → validated settings.

Read in this order, later wins, key by key: drop-ins of /usr/lib/k8r/conf.d and /run/k8r/conf.d, /etc/k8r/agent.toml,
drop-ins of /etc/k8r/conf.d, /boot/firmware/k8r.toml (which a person may have edited on the flashed medium). A
variables.cfg of the shell version comes before all of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from k8r_agent.errors import ConfigError

if TYPE_CHECKING:
    from k8r_agent.config.merge import Loaded
    from k8r_agent.config.settings import Settings

ROOT = Path("/")
LEGACY = "usr/lib/k8r/variables.cfg"


class ConfigProblems(ConfigError):
    """All problems at once: people should not have to run a check five times to find five mistakes."""

    def __init__(self, problems: tuple[ConfigError, ...]) -> None:
        number = "1 mistake" if len(problems) == 1 else f"{len(problems)} mistakes"
        super().__init__(f"the configuration has {number}", why="; ".join(str(problem) for problem in problems),
                         hint="k8r-agent config check")
        self.problems = problems


def read_all(root: Path = ROOT) -> Loaded:
    """Everything there is to know about the configuration, good and bad. Raises nothing a file can cause."""
    from k8r_agent.config import fragments, merge

    found = [fragments.read(file) for file in fragments.find(root)]
    if (root / LEGACY).is_file():
        from k8r_agent.config import legacy

        found.insert(0, legacy.read(root / LEGACY))
    return merge.merge(found)


def load(root: Path = ROOT) -> Settings:
    """For whoever changes a disk: raises ConfigProblems unless every statement is good."""
    loaded = read_all(root)
    if loaded.problems:
        raise ConfigProblems(loaded.problems)
    return loaded.settings


def load_lenient(root: Path = ROOT) -> tuple[Settings, tuple[ConfigError, ...]]:
    """For whoever must not fail (boot, identity, status): settings from the valid statements, and the problems."""
    loaded = read_all(root)
    return loaded.settings, loaded.problems
