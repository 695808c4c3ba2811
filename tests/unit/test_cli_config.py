from __future__ import annotations

from pathlib import Path

import pytest

from k8r_agent.config import fragments, load
from k8r_agent.config.settings import Settings
from k8r_agent.config.table import TABLE
from k8r_agent.errors import Exit
from tests.fakes.prompt import Prompt
from tests.unit.test_config_readers import ED25519


@pytest.fixture
def prompt(tmp_path: Path) -> Prompt:
    return Prompt(tmp_path)


def test_show_prints_every_setting_and_where_it_comes_from(prompt: Prompt) -> None:
    prompt.configure('[boot]\ndeadline = "150s"\n')
    assert prompt.run("config", "show") == Exit.OK
    for row in TABLE:
        assert f"{row.key} = " in prompt.out
    line = next(line for line in prompt.out.splitlines() if line.startswith("deadline"))
    assert line.startswith('deadline = "150s"') and line.endswith("agent.toml:2")
    assert "# default" in prompt.out


def test_what_show_prints_can_be_read_back(prompt: Prompt, tmp_path: Path) -> None:
    prompt.configure(f'[disk]\nimage_size = "1536MiB"\n[access]\nauthorized_keys = ["{ED25519}"]\n[boot]\n'
                     'deadline = "2h"\n[update]\nauto = true\n')
    prompt.run("config", "show")
    copy = Prompt(tmp_path / "copy")
    copy.configure(prompt.out)
    assert load(copy.tmp) == load(tmp_path) != Settings()


def test_show_one(prompt: Prompt) -> None:
    assert prompt.run("config", "show", "disk.image_size") == Exit.OK
    assert prompt.out == '"4GiB"\n'
    assert prompt.run("config", "show", "disk.imagesize") == Exit.USAGE
    assert "did you mean disk.image_size?" in prompt.err


def test_show_says_when_something_is_wrong(prompt: Prompt) -> None:
    prompt.configure("[node]\nhostnam = 1\n")
    assert prompt.run("config", "show") == Exit.BAD_CONFIG
    assert "config check" in prompt.err
    found = prompt.json("config", "show")
    assert found["settings"]["node"]["role"] == "auto"
    assert "did you mean hostname?" in found["problems"][0]["hint"]


def test_check_of_a_good_node(prompt: Prompt) -> None:
    assert prompt.run("config", "check") == Exit.OK
    assert "no configuration file" in prompt.out
    assert "ok: task update" in prompt.out
    prompt.configure("[node]\n")
    assert prompt.run("config", "check") == Exit.OK
    assert "agent.toml" in prompt.out


def test_check_lists_all_mistakes_in_settings_and_tasks(prompt: Prompt, tmp_path: Path) -> None:
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "mine.toml").write_text('format = 1\nsteps = ["preflihgt"]\n')
    prompt = Prompt(tmp_path, tasks=tasks)
    prompt.configure('[node]\nhostname = "UPPER"\nrole = "boss"\n')
    assert prompt.run("config", "check") == Exit.BAD_CONFIG
    assert "3 mistakes" in prompt.err
    assert "agent.toml:2: node.hostname" in prompt.err
    assert "agent.toml:3: node.role" in prompt.err
    assert "mine.toml:2" in prompt.err and "preflight" in prompt.err
    found = prompt.json("config", "check")
    assert len(found["error"]["problems"]) == 3
    assert found["error"]["code"] == "bad-config"


def test_check_of_files(prompt: Prompt, tmp_path: Path) -> None:
    good, legacy = tmp_path / "k8r.toml", tmp_path / "variables.cfg"
    good.write_text('[node]\nhostname = "a"\n')
    legacy.write_text("K8S_VERSION=1.29.3\n")
    assert prompt.run("config", "check", str(good), str(legacy)) == Exit.OK
    assert "note: " in prompt.out and "K8S_VERSION" in prompt.out
    legacy.write_text("K8S_VERSION=$(reboot)\n")
    assert prompt.run("config", "check", str(legacy)) == Exit.BAD_CONFIG
    assert f"{legacy}:1: K8S_VERSION" in prompt.err
    assert prompt.run("config", "check", str(tmp_path / "absent.toml")) == Exit.BAD_CONFIG


def test_the_shipped_file_is_valid() -> None:
    shipped = Path(__file__).resolve().parent.parent.parent / "etc/k8r/agent.toml"
    assert not fragments.read(shipped).problems
