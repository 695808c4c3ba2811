"""One row of the table of settings."""

from __future__ import annotations

from dataclasses import dataclass

from k8r_agent.config.readers import Reader
from k8r_agent.config.settings import SECRETS, Settings


@dataclass(frozen=True, kw_only=True)
class Setting:
    """`kind` names the type for people; `doc` is a paragraph of the manual page; completion offers `values`."""

    section: str
    key: str
    read: Reader
    kind: str
    help: str
    doc: str
    values: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.section}.{self.key}"

    @property
    def default(self) -> object:
        return getattr(getattr(Settings(), self.section), self.key)

    @property
    def secret(self) -> bool:
        return self.name in SECRETS
