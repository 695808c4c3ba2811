from __future__ import annotations

import json
from pathlib import Path

import pytest

from k8r_agent import __version__
from k8r_agent.cli.app import build, load
from k8r_agent.cli.completion import leaves
from k8r_agent.cli.verbs import VERBS
from k8r_agent.errors import BootError, Exit
from tests.fakes.identity import FakeIdentity
from tests.fakes.prompt import Prompt
from tests.fakes.simple import simple_world
from tests.fakes.statefiles import FakeStateFiles


@pytest.fixture
def prompt(tmp_path: Path) -> Prompt:
    return Prompt(tmp_path)


@pytest.mark.parametrize("argv", [(), ("--help",), ("-h",), ("help",)])
def test_help_lists_what_people_use(prompt: Prompt, argv: tuple[str, ...]) -> None:
    assert prompt.run(*argv) == Exit.OK
    for verb in VERBS:
        assert (f"  {verb.name} " in prompt.out) is not verb.hidden
    assert "Exit codes" in prompt.out


def test_help_all_lists_the_rest(prompt: Prompt) -> None:
    prompt.run("--help", "--all")
    assert all(f"  {verb.name} " in prompt.out for verb in VERBS)


def test_version(prompt: Prompt) -> None:
    assert prompt.run("--version") == Exit.OK
    assert prompt.out == f"k8r-agent {__version__}\n"


@pytest.mark.parametrize(("path", "verb"), leaves(), ids=lambda value: value if isinstance(value, str) else "")
def test_every_verb_has_a_parser_a_function_and_help(prompt: Prompt, path: str, verb: object,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    found = next(v for p, v in leaves() if p == path)
    name = "run" + ("_" + found.name.replace("-", "_") if " " in path else "")
    assert callable(getattr(load(found), name))
    assert {"--json", "--help"} <= {flag for action in build(found, path)._actions for flag in action.option_strings}
    assert prompt.run(*path.split(), "--help") == Exit.OK
    assert f"usage: k8r-agent {path}" in capsys.readouterr().out


@pytest.mark.parametrize("group", [verb.name for verb in VERBS if verb.members])
def test_help_of_a_group(prompt: Prompt, group: str) -> None:
    assert prompt.run(group, "--help") == Exit.OK
    assert f"usage: k8r-agent {group} VERB" in prompt.out


@pytest.mark.parametrize(("argv", "says"), [
    (("statsu",), "did you mean status?"),
    (("frobnicate",), "there is no verb 'frobnicate'"),
    (("--frobnicate",), "which verb?"),
    (("--json",), "which verb?"),
    (("task",), "task: which of list, show"),
    (("task", "wach"), "did you mean watch?"),
    (("status", "--frob"), "unrecognized arguments: --frob"),
    (("status", "--js"), "unrecognized arguments: --js"),
    (("reboot", "--slot", "third"), "invalid choice: 'third'"),
    (("events", "-n", "many"), "invalid int value"),
    (("events", "-n", "-1"), "from 0 up"),
])
def test_a_wrong_command_line_is_exit_2_and_one_hint(prompt: Prompt, argv: tuple[str, ...], says: str) -> None:
    assert prompt.run(*argv) == Exit.USAGE
    text = prompt.out + prompt.err
    assert says in text
    assert "hint" in text or argv[0] == "events"


def test_errors_are_json_when_that_was_asked_for(prompt: Prompt) -> None:
    assert prompt.run("statsu", "--json") == Exit.USAGE
    found = json.loads(prompt.out)
    assert found["error"]["code"] == "usage"
    assert found["error"]["hint"] == "did you mean status?"
    assert prompt.err == ""


def test_json_may_stand_anywhere(prompt: Prompt) -> None:
    for argv in (("--json", "task", "list"), ("task", "--json", "list"), ("task", "list", "--json")):
        assert prompt.run(*argv) == Exit.OK
        assert json.loads(prompt.out)["tasks"]


class Broken:
    def __getattr__(self, name: str) -> object:
        raise ZeroDivisionError("oh\nno")


def test_a_mistake_of_ours_is_no_traceback(prompt: Prompt) -> None:
    prompt.world.boot = Broken()  # type: ignore[assignment]
    assert prompt.run("reboot") == Exit.FAILED
    assert "error[internal]" in prompt.err
    assert "ZeroDivisionError: oh" in prompt.err
    assert "Traceback" not in prompt.err
    prompt.environ["SYSTEMD_LOG_LEVEL"] = "debug"
    assert prompt.run("reboot") == Exit.FAILED
    assert "Traceback" in prompt.err


class Interrupted:
    def __getattr__(self, name: str) -> object:
        raise KeyboardInterrupt


def test_control_c_is_no_traceback_and_no_success(prompt: Prompt) -> None:
    prompt.world.boot = Interrupted()  # type: ignore[assignment]
    assert prompt.run("reboot") == Exit.FAILED
    assert "interrupted" in prompt.err


class Refusing:
    def __getattr__(self, name: str) -> object:
        raise BootError("no loader", why="it is gone", hint="look for it")


def test_an_expected_failure_says_what_why_and_what_to_do(prompt: Prompt) -> None:
    prompt.world.boot = Refusing()  # type: ignore[assignment]
    assert prompt.run("reboot") == Exit.FAILED
    assert prompt.err == "k8r-agent: error[boot]: no loader\n  why: it is gone\n  hint: look for it\n"


@pytest.mark.parametrize("argv", [
    ("status",), ("update", "/tmp"), ("reinstall",), ("confirm",), ("rollback",), ("reboot",), ("events",),
    ("task", "list"), ("task", "show"), ("task", "watch"), ("task", "cancel"), ("task", "retry"), ("slot", "list"),
    ("slot", "verify"), ("slot", "install-assets"), ("identity", "capture"), ("identity", "apply"), ("first-boot",),
    ("runner",),
])
def test_without_root_it_says_so(tmp_path: Path, argv: tuple[str, ...]) -> None:
    prompt = Prompt(tmp_path, uid=1000)
    assert prompt.run(*argv) == Exit.USAGE
    assert "needs root" in prompt.err
    assert "sudo k8r-agent" in prompt.err


@pytest.mark.parametrize(("persistent", "says"), [(True, "on the state partition"), (False, "in memory only")])
def test_an_identity_that_will_not_last_is_not_called_kept(tmp_path: Path, persistent: bool, says: str) -> None:
    world = simple_world()
    world.files = FakeStateFiles(on_partition=persistent)
    world.identity = FakeIdentity(world.files)
    prompt = Prompt(tmp_path, world=world)
    assert prompt.run("identity", "capture") == Exit.OK and says in prompt.out
