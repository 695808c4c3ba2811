"""Human accounts in passwd(5), shadow(5), group(5) and gshadow(5): picked out of one system, merged into another.

Pure text in, text out. Accounts of the system (uid and gid below 1000, and `nobody`) belong to the release and are
never touched, except root's password hash.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field

from k8r_agent.model import strictjson

FORMAT = 1
FIRST, LAST = 1000, 59999  # Debian policy 9.2: dynamically allocated user accounts
_PASSWD, _SHADOW, _GROUP, _GSHADOW = 7, 9, 4, 4  # fields of a line


@dataclass(frozen=True, kw_only=True)
class User:
    name: str
    uid: int
    gid: int
    gecos: str
    home: str
    shell: str
    shadow: tuple[str, ...]  # the fields after the name: hash, last change, …
    groups: tuple[str, ...]  # supplementary, by name


@dataclass(frozen=True, kw_only=True)
class Accounts:
    users: tuple[User, ...] = ()
    groups: Mapping[str, int] = field(default_factory=dict)  # human groups: name → gid
    root_hash: str = ""

    def to_json(self) -> bytes:
        """One stable form: equal accounts are equal bytes."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, sort_keys=True).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> Accounts:
        """Raises ValueError on anything else. Unknown keys of a later agent are ignored."""
        try:
            record = strictjson.loads(data)
            users = tuple(User(name=u["name"], uid=int(u["uid"]), gid=int(u["gid"]), gecos=u["gecos"], home=u["home"],
                               shell=u["shell"], shadow=tuple(u["shadow"]), groups=tuple(u["groups"]))
                          for u in record["users"])
            groups = {str(name): int(gid) for name, gid in record["groups"].items()}
            return cls(users=users, groups=groups, root_hash=str(record["root_hash"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a list of accounts: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Files:
    """The four files as text."""

    passwd: str = ""
    shadow: str = ""
    group: str = ""
    gshadow: str = ""


def _rows(text: str, width: int) -> list[list[str]]:
    """Lines that are not an entry (NIS `+`, comments) come back as a row of one field and are kept as they are."""
    rows = []
    for line in text.splitlines():
        fields = line.split(":")
        rows.append(fields if len(fields) == width and fields[0] else [line])
    return rows


def _text(rows: Iterable[list[str]]) -> str:
    return "".join(":".join(row) + "\n" for row in rows)


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1


def _human(number: int) -> bool:
    return FIRST <= number <= LAST


def pick(files: Files) -> Accounts:
    """The people of a system."""
    shadow = {row[0]: row[1:] for row in _rows(files.shadow, _SHADOW) if len(row) > 1}
    groups = [row for row in _rows(files.group, _GROUP) if len(row) > 1]
    users = []
    for row in _rows(files.passwd, _PASSWD):
        if len(row) == 1 or not _human(_number(row[2])):
            continue
        name = row[0]
        users.append(User(
            name=name, uid=int(row[2]), gid=_number(row[3]), gecos=row[4], home=row[5], shell=row[6],
            shadow=tuple(shadow.get(name, ["!", "", "", "", "", "", "", ""])),
            groups=tuple(sorted(g[0] for g in groups if name in g[3].split(",")))))
    return Accounts(users=tuple(sorted(users, key=lambda u: (u.uid, u.name))),
                    groups={g[0]: int(g[2]) for g in groups if _human(_number(g[2]))},
                    root_hash=shadow.get("root", [""])[0])


def rootless(files: Files) -> str:
    """The first file that does not name root, and so was emptied or is gone; "" when there is none."""
    names = [row[0] for row in _rows(files.passwd, _PASSWD) if len(row) > 1 and _number(row[2]) == 0]
    if not names:
        return "passwd"
    if not any(row[0] in names for row in _rows(files.shadow, _SHADOW) if len(row) > 1):
        return "shadow"
    if not any(_number(row[2]) == 0 for row in _rows(files.group, _GROUP) if len(row) > 1):
        return "group"
    return ""


class _Merge:
    def __init__(self, files: Files) -> None:
        self.passwd, self.shadow = _rows(files.passwd, _PASSWD), _rows(files.shadow, _SHADOW)
        self.group, self.gshadow = _rows(files.group, _GROUP), _rows(files.gshadow, _GSHADOW)

    def files(self) -> Files:
        return Files(passwd=_text(self.passwd), shadow=_text(self.shadow), group=_text(self.group),
                     gshadow=_text(self.gshadow))

    @staticmethod
    def _find(rows: list[list[str]], name: str) -> list[str] | None:
        return next((row for row in rows if len(row) > 1 and row[0] == name), None)

    @staticmethod
    def _free(rows: list[list[str]], wanted: int) -> int:
        """`wanted` when nobody has it, else the lowest number above everybody else's."""
        taken = {_number(row[2]) for row in rows if len(row) > 1}
        if wanted not in taken and _human(wanted):
            return wanted
        return next(number for number in range(FIRST, LAST + 1) if number not in taken)

    def add_group(self, name: str, gid: int) -> None:
        if self._find(self.group, name) is None:
            self.group.append([name, "x", str(self._free(self.group, gid)), ""])
        if self.gshadow and self._find(self.gshadow, name) is None:
            self.gshadow.append([name, "!", "", ""])

    def add_user(self, user: User, gid_of: Mapping[int, str]) -> None:
        row = self._find(self.passwd, user.name)
        if row is not None and not _human(_number(row[2])):
            return  # the release has a system account of that name
        if row is None:
            group = self._find(self.group, gid_of.get(user.gid, user.name))
            gid = group[2] if group else str(user.gid)
            row = [user.name, "x", str(self._free(self.passwd, user.uid)), gid, "", user.home, ""]
            self.passwd.append(row)
        row[4], row[6] = user.gecos, user.shell
        self._set_shadow([user.name, *user.shadow])
        for name in user.groups:
            self._join(name, user.name)

    def _set_shadow(self, wanted: list[str]) -> None:
        row = self._find(self.shadow, wanted[0])
        if row is None:
            self.shadow.append(wanted)
        else:
            row[1:] = wanted[1:]

    def _join(self, group: str, user: str) -> None:
        """A group that the release does not have is left out: its number could mean something else there."""
        for rows in (self.group, self.gshadow):
            row = self._find(rows, group)
            if row is not None:
                members = [member for member in row[3].split(",") if member]
                row[3] = ",".join(members if user in members else [*members, user])

    def set_root(self, hashed: str) -> None:
        row = self._find(self.shadow, "root")
        if row is not None and hashed:
            row[1] = hashed


def merge(files: Files, accounts: Accounts) -> Files:
    """`files` with the people of `accounts` in it. Idempotent. A number that is taken gives way: the home directory
    is new there anyway."""
    work = _Merge(files)
    for name, gid in accounts.groups.items():
        work.add_group(name, gid)
    names = {gid: name for name, gid in accounts.groups.items()}
    for user in accounts.users:
        work.add_user(user, names)
    work.set_root(accounts.root_hash)
    return work.files()
