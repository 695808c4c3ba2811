"""People are moved between systems; accounts of the system are not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8r_agent.effects.accounts import Accounts, Files, User, merge, pick, rootless

OLD = Files(
    passwd="root:x:0:0:root:/root:/bin/bash\nsshd:x:101:65534::/run/sshd:/usr/sbin/nologin\n"
           "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
           "alice:x:1000:1000:Alice,,,:/home/alice:/bin/zsh\nbob:x:1001:1001::/home/bob:/bin/bash\n",
    shadow="root:$y$root:20000:0:99999:7:::\nsshd:!:20000::::::\nalice:$y$alice:20001:0:99999:7:::\n"
           "bob:!:20002:0:99999:7:::\n",
    group="root:x:0:\nadm:x:4:alice\nsudo:x:27:alice,bob\nlxd:x:110:bob\nalice:x:1000:\nbob:x:1001:\n"
          "team:x:1500:alice\n",
    gshadow="root:*::\nadm:*::alice\nsudo:*::alice,bob\nlxd:!::bob\nalice:!::\nbob:!::\nteam:!::alice\n",
)
NEW = Files(
    passwd="root:x:0:0:root:/root:/bin/bash\nsystemd-new:x:101:101::/:/usr/sbin/nologin\n",
    shadow="root:*:20500:0:99999:7:::\nsystemd-new:!:20500::::::\n",
    group="root:x:0:\nadm:x:4:\nsudo:x:27:\nsystemd-new:x:101:\n",
    gshadow="root:*::\nadm:*::\nsudo:*::\nsystemd-new:!::\n",
)


def entry(text: str, name: str) -> list[str]:
    return next(line.split(":") for line in text.splitlines() if line.startswith(name + ":"))


def test_only_people_are_picked() -> None:
    people = pick(OLD)
    assert [user.name for user in people.users] == ["alice", "bob"]
    assert people.root_hash == "$y$root" and people.groups == {"alice": 1000, "bob": 1001, "team": 1500}
    assert people.users[0].groups == ("adm", "sudo", "team")


@pytest.mark.parametrize("name", ["passwd", "shadow", "group"])
def test_a_file_that_does_not_name_root_is_told(name: str) -> None:
    assert rootless(OLD) == "" and rootless(Files()) == "passwd"
    text: str = getattr(OLD, name)
    for cut in ("", text[:3], text.partition("\n")[2]):
        assert rootless(replace(OLD, **{name: cut})) == name


def test_a_fresh_system_gets_them() -> None:
    merged = merge(NEW, pick(OLD))
    assert entry(merged.passwd, "alice") == ["alice", "x", "1000", "1000", "Alice,,,", "/home/alice", "/bin/zsh"]
    assert entry(merged.shadow, "alice")[1] == "$y$alice"
    assert entry(merged.shadow, "root") == ["root", "$y$root", "20500", "0", "99999", "7", "", "", ""]
    assert entry(merged.group, "sudo")[3] == entry(merged.gshadow, "sudo")[3] == "alice,bob"
    assert entry(merged.group, "team") == ["team", "x", "1500", "alice"]


def test_accounts_of_the_system_stay_as_the_release_has_them() -> None:
    merged = merge(NEW, pick(OLD))
    assert entry(merged.passwd, "systemd-new") == entry(NEW.passwd, "systemd-new")
    assert "sshd:" not in merged.passwd and "lxd:" not in merged.group
    taken = Files(passwd=NEW.passwd + "bob:x:200:200::/:/bin/false\n", shadow=NEW.shadow, group=NEW.group)
    assert entry(merge(taken, pick(OLD)).passwd, "bob") == ["bob", "x", "200", "200", "", "/", "/bin/false"]


def test_a_taken_number_gives_way() -> None:
    taken = Files(passwd=NEW.passwd + "debian:x:1000:1000::/home/debian:/bin/bash\n", shadow=NEW.shadow,
                  group=NEW.group + "debian:x:1000:\n", gshadow=NEW.gshadow)
    merged = merge(taken, pick(OLD))
    assert entry(merged.passwd, "debian")[2] == "1000"
    assert entry(merged.passwd, "alice")[2:4] == [entry(merged.passwd, "alice")[2], entry(merged.group, "alice")[2]]
    uids = [line.split(":")[2] for line in merged.passwd.splitlines()]
    assert len(uids) == len(set(uids))


def test_a_user_of_the_image_takes_the_kept_password() -> None:
    there = Files(passwd=NEW.passwd + "alice:x:1005:1005::/home/alice:/bin/sh\n",
                  shadow=NEW.shadow + "alice:*:1::::::\n", group=NEW.group + "alice:x:1005:\n")
    merged = merge(there, pick(OLD))
    assert entry(merged.passwd, "alice")[2:] == ["1005", "1005", "Alice,,,", "/home/alice", "/bin/zsh"]
    assert entry(merged.shadow, "alice")[1] == "$y$alice"


def test_lines_that_are_no_entries_are_kept() -> None:
    odd = Files(passwd=NEW.passwd + "+@nis\n", shadow=NEW.shadow, group=NEW.group, gshadow=NEW.gshadow)
    assert "+@nis\n" in merge(odd, pick(OLD)).passwd


def test_json_comes_back_and_rubbish_does_not() -> None:
    people = pick(OLD)
    assert Accounts.from_json(people.to_json()) == people
    for rubbish in (b"", b"{}", b"[]", b'{"users": [{}], "groups": {}, "root_hash": ""}', b'{"users": 1}'):
        with pytest.raises(ValueError):
            Accounts.from_json(rubbish)


names = st.sampled_from(["alice", "bob", "carol", "sshd", "team"])
users = st.builds(User, name=names, uid=st.integers(1000, 1004), gid=st.integers(1000, 1004), gecos=st.just(""),
                  home=st.just("/home/x"), shell=st.just("/bin/sh"), shadow=st.just(("h", "", "", "", "", "", "", "")),
                  groups=st.lists(st.sampled_from(["adm", "sudo", "lxd"]), unique=True).map(tuple))
people = st.builds(Accounts, users=st.lists(users, unique_by=lambda u: u.name, max_size=4).map(tuple),
                   groups=st.dictionaries(names, st.integers(1000, 1004), max_size=3), root_hash=st.just("h"))


@given(people)
def test_merging_twice_is_merging_once_and_numbers_stay_unique(accounts: Accounts) -> None:
    once = merge(NEW, accounts)
    assert merge(once, accounts) == once
    for text in (once.passwd, once.group):
        numbers = [line.split(":")[2] for line in text.splitlines()]
        assert len(numbers) == len(set(numbers))
        assert len({line.split(":")[0] for line in text.splitlines()}) == len(numbers)
