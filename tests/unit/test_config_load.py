from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from k8r_agent import config
from k8r_agent.config import fragments
from k8r_agent.config.settings import Settings
from k8r_agent.config.table import SECTIONS, TABLE
from k8r_agent.errors import ConfigError, Exit
from tests.unit.test_config_readers import ED25519


def put(root: Path, name: str, text: str) -> Path:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def problems(root: Path) -> list[str]:
    return [f"{p}{f' ({p.hint})' if p.hint else ''}" for p in config.read_all(root).problems]


def test_the_table_and_the_settings_are_the_same_thing() -> None:
    known = {(section.name, key.name) for section in fields(Settings)
             for key in fields(getattr(Settings(), section.name))}
    assert {(row.section, row.key) for row in TABLE} == known
    assert set(SECTIONS) == {section.name for section in fields(Settings)}
    for row in TABLE:
        assert row.help and row.doc.endswith("."), row.name


def test_every_offered_value_is_accepted() -> None:
    for row in TABLE:
        for value in row.values:
            row.read({"true": True, "false": False}.get(value, value))


def test_nothing_configured_gives_the_defaults(tmp_path: Path) -> None:
    assert config.load(tmp_path) == Settings()


def test_later_files_win_key_by_key(tmp_path: Path) -> None:
    put(tmp_path, "usr/lib/k8r/conf.d/50-board.toml", '[disk]\nimage_size = "6GiB"\nstate_size = "1GiB"\n')
    put(tmp_path, "run/k8r/conf.d/60-run.toml", '[disk]\nstate_size = "3GiB"\n')
    put(tmp_path, "etc/k8r/agent.toml", '[node]\nhostname = "one"\nrole = "master"\n')
    put(tmp_path, "etc/k8r/conf.d/10-site.toml", '[update]\nsource = "https://a.example/"\n[boot]\ntries = 4\n')
    put(tmp_path, "etc/k8r/conf.d/20-site.toml", '[update]\nsource = "https://b.example/"\n')
    put(tmp_path, "boot/firmware/k8r.toml", '[node]\nhostname = "two"\n')
    found = config.read_all(tmp_path)
    assert not found.problems
    assert found.settings.disk.image_size == 6 << 30
    assert found.settings.disk.state_size == 3 << 30
    assert found.settings.node.hostname == "two"
    assert found.settings.node.role == "control-plane"
    assert found.settings.update.source == "https://b.example/"
    assert found.settings.boot.tries == 4
    assert found.origin["node.hostname"].endswith("boot/firmware/k8r.toml:2")
    assert found.origin["boot.tries"].endswith("10-site.toml:4")


def test_a_file_hides_those_of_its_name_and_dev_null_masks(tmp_path: Path) -> None:
    put(tmp_path, "usr/lib/k8r/conf.d/a.toml", '[disk]\nimage_size = "6GiB"\nstate_size = "1GiB"\n')
    put(tmp_path, "etc/k8r/conf.d/a.toml", '[disk]\nimage_size = "7GiB"\n')
    put(tmp_path, "usr/lib/k8r/conf.d/b.toml", '[boot]\ntries = 9\n')
    (tmp_path / "etc/k8r/conf.d/b.toml").symlink_to("/dev/null")
    put(tmp_path, "etc/k8r/conf.d/README", "not a drop-in")
    settings = config.load(tmp_path)
    assert settings.disk.image_size == 7 << 30
    assert settings.disk.state_size == Settings().disk.state_size
    assert settings.boot.tries == 3


def test_all_mistakes_at_once_each_with_line_and_advice(tmp_path: Path) -> None:
    file = put(tmp_path, "etc/k8r/agent.toml",
               'hostname = "x"\n[nod]\nrole = "worker"\n[node]\nhostnam = "x"\ntries = 3\n'
               '[disk]\nimage_size = 4\n[boot]\ntries = 99\n')
    found = problems(tmp_path)
    assert [p.split(": ")[0] for p in found] == [f"{file}:{line}" for line in (1, 3, 5, 6, 8, 10)]
    assert "it belongs under [node]" in found[0]
    assert "did you mean node?" in found[1]
    assert "did you mean hostname?" in found[2]
    assert "it belongs under [boot]" in found[3]
    assert "no unit" in found[4]
    assert "from 1 to 4" in found[5]
    with pytest.raises(config.ConfigProblems) as caught:
        config.load(tmp_path)
    assert caught.value.exit is Exit.BAD_CONFIG
    assert len(caught.value.problems) == 6
    assert "6 mistakes" in caught.value.what


def test_a_typing_error_costs_one_statement_not_the_file(tmp_path: Path) -> None:
    put(tmp_path, "boot/firmware/k8r.toml",
        f'[node]\nhostname = "broken\nrole = "control-plane"\n[access\nuser = "admin"\n[access]\n'
        f'authorized_keys = [\n  "{ED25519}",  # the operator\n]\n[update]\nauto = yes\n')
    settings, found = config.load_lenient(tmp_path)
    assert settings.node.role == "control-plane"
    assert settings.access.authorized_keys == (ED25519,)
    assert [str(p).split(": ")[0].rsplit(":")[-1] for p in found[:2]] == ["2", "4"]
    assert any("true or false" in p.hint for p in found)


def test_a_value_over_several_lines_is_one_statement() -> None:
    text = '[network]\ndns = [\n "1.1.1.1",\n\n # and\n "9.9.9.9" ]\ninterface = "eth0"\n'
    fragment = fragments.parse(text, Path("f"))
    assert [(e.key, e.where) for e in fragment.entries] == [("dns", "f:2"), ("interface", "f:7")]


@pytest.mark.parametrize("text", [
    'node.hostname = "a"\n', 'node = { hostname = "a" }\n', '[ "node" ]  # x\nhostname = "a"\n',
    "[node]\nhostname='a'",
])
def test_all_ways_to_write_a_key(text: str) -> None:
    (entry,) = fragments.parse(text, Path("f")).entries
    assert (entry.section, entry.key, entry.value) == ("node", "hostname", "a")


@pytest.mark.parametrize(("text", "says"), [
    ("[[node]]\n", "not a section"),
    ("[node]\nhostname\n", "write: key = value"),
    ('[node]\nhostname = "a"\nhostname = "b"\n', "set a second time"),
    ("[node]\n[node]\nhostname = node\n", "put text in quotes"),
    ("[a.b]\nc = 1\n", ""),
])
def test_files_that_cannot_be_understood(text: str, says: str) -> None:
    found = fragments.parse(text, Path("f"))
    assert says in " ".join(f"{p} {p.hint}" for p in found.problems)


def test_a_file_from_windows_is_read(tmp_path: Path) -> None:
    file = put(tmp_path, "boot/firmware/k8r.toml", "")
    file.write_bytes(b'\xef\xbb\xbf[node]\r\nhostname = "a"\r\n')
    assert config.load(tmp_path).node.hostname == "a"
    file.write_bytes('[node]\nhostname = "a"\n'.encode("utf-16"))
    assert "UTF-16" in problems(tmp_path)[0]
    file.write_bytes(b'[node]\nhostname = "\xff"\n')
    assert f"{file}:2: not UTF-8" in problems(tmp_path)[0]


def test_what_is_no_file_is_a_problem_not_a_crash(tmp_path: Path) -> None:
    (tmp_path / "etc/k8r/agent.toml").mkdir(parents=True)
    put(tmp_path, "boot/firmware/k8r.toml", "#" * (fragments.MAX_FILE + 1))
    settings, found = config.load_lenient(tmp_path)
    assert settings == Settings()
    assert ["cannot be read" in str(found[0]), "larger than" in str(found[1])] == [True, True]


def test_deep_nesting_is_a_mistake_not_a_crash() -> None:
    assert fragments.parse("a = " + "[" * 5000 + "\n", Path("f")).problems


@pytest.mark.parametrize(("text", "kept"), [
    ('[network]\ngateway = "10.0.0.1"\n', ""),
    ('[network]\naddress = "10.0.0.5/24"\ngateway = "10.0.1.1"\n', "10.0.0.5/24"),
    ('[network]\naddress = "10.0.0.5/24"\ngateway = "fd00::1"\n', "10.0.0.5/24"),
])
def test_a_gateway_that_cannot_work_is_named_and_dropped(tmp_path: Path, text: str, kept: str) -> None:
    put(tmp_path, "etc/k8r/agent.toml", text)
    settings, found = config.load_lenient(tmp_path)
    assert (settings.network.address, settings.network.gateway) == (kept, "")
    assert isinstance(found[0], ConfigError)
    assert "gateway" in found[0].what


def test_good_static_network(tmp_path: Path) -> None:
    put(tmp_path, "etc/k8r/agent.toml", '[network]\naddress = "fd00::5/64"\ngateway = "fe80::1"\ndns = ["fd00::1"]\n')
    assert config.load(tmp_path).network.gateway == "fe80::1"
