"""From words to a verb. Only the chosen verb's module is imported, and argparse only when a verb was chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from k8r_agent.cli.console import PROGRAM, Console
from k8r_agent.cli.verbs import EVERYDAY, PLUMBING, Verb, find
from k8r_agent.errors import Exit, K8rError, NothingToDo, UsageError

if TYPE_CHECKING:
    import argparse

    from k8r_agent.cli.node import Node


def main(argv: Sequence[str], *, console: Console | None = None, node: Node | None = None) -> int:
    """Returns the exit code. Never raises, never shows a traceback unless SYSTEMD_LOG_LEVEL=debug."""
    console = console or Console()
    console.json = "--json" in argv  # also for the errors of the parser itself
    try:
        return _dispatch(list(argv), console, node)
    except NothingToDo as error:
        console.say(*(text for text in (str(error), error.hint) if text))
        console.result({"nothing_to_do": str(error)})
        return int(Exit.NOTHING_TO_DO if "--exit-77" in argv else Exit.OK)
    except K8rError as error:
        console.error(error)
        return int(error.exit)
    except KeyboardInterrupt:
        console.note("", "interrupted; nothing that was submitted to the runner is affected")
        return int(Exit.FAILED)
    except BrokenPipeError:
        return _silence(console)
    except Exception as error:
        return _internal(error, console)


def _dispatch(argv: list[str], console: Console, node: Node | None) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        return _help(console, hidden="--all" in argv)
    if argv[0] == "--version":
        from k8r_agent import __version__

        console.say(f"{PROGRAM} {__version__}")
        return Exit.OK
    words = [word for word in argv if word != "--json"]
    verb = _find(words[0] if words else "", (*EVERYDAY, *PLUMBING), "")
    rest, path = [*argv[argv.index(verb.name) + 1:], *(["--json"] if "--json" in argv else [])], verb.name
    suffix = ""
    if verb.members:
        member = next((word for word in rest if not word.startswith("-")), "")
        if not member and set(rest) & {"-h", "--help"}:
            return _group_help(console, verb)
        chosen = _find(member, verb.members, verb.name)
        rest.remove(member)
        path, suffix = f"{verb.name} {member}", "_" + member.replace("-", "_")
    else:
        chosen = verb
    return _run(chosen, path, suffix, rest, console, node)


def _run(verb: Verb, path: str, suffix: str, words: list[str], console: Console, node: Node | None) -> int:
    module = load(verb)
    if set(words) <= {"--json"} and not hasattr(module, "arguments" + suffix):
        args: Any = SimpleNamespace(json=bool(words))  # nothing to parse: `status` does without argparse
    else:
        try:
            args = build(verb, path).parse_args(words)
        except SystemExit:  # only --help ends that way: errors are raised
            return Exit.OK
    console.json = args.json
    if node is None:
        from k8r_agent.cli.node import Node

        node = Node()
    run: Callable[..., int] = getattr(module, "run" + suffix)
    return int(run(args, console, node))


def load(verb: Verb) -> Any:
    from importlib import import_module

    return import_module(f"k8r_agent.cli.{verb.module}")


def build(verb: Verb, path: str) -> argparse.ArgumentParser:
    """The parser of one verb; `path` is its full name (`task list`)."""
    from k8r_agent.cli.parser import Parser

    parser = Parser(prog=f"{PROGRAM} {path}", description=verb.summary)
    suffix = "_" + verb.name.replace("-", "_") if " " in path else ""
    declare: Callable[[argparse.ArgumentParser], None] | None = getattr(load(verb), "arguments" + suffix, None)
    if declare:
        declare(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object with format_version")
    return parser


def _find(name: str, verbs: tuple[Verb, ...], group: str) -> Verb:
    found = find(name, verbs)
    if found:
        return found
    names = [verb.name for verb in verbs]
    if not name or name.startswith("-"):
        what = f"{group}: which of {', '.join(names)}?" if group else "which verb?"
        raise UsageError(what, hint=f"{PROGRAM} {group} --help" if group else f"{PROGRAM} --help")
    import difflib

    near = difflib.get_close_matches(name, names, n=1)
    what = f"{group} has no verb {name!r}" if group else f"there is no verb {name!r}"
    raise UsageError(what, hint=f"did you mean {near[0]}?" if near else f"{PROGRAM} --help")


def _help(console: Console, *, hidden: bool) -> int:
    def lines(verbs: tuple[Verb, ...]) -> list[str]:
        return [f"  {verb.name:<12} {verb.summary}" for verb in verbs if hidden or not verb.hidden]

    console.say(
        f"usage: {PROGRAM} VERB [OPTIONS]", "", "First boot, update and reinstall of nodes from a golden image.", "",
        "Every day:", *lines(EVERYDAY), "", "Plumbing:", *lines(PLUMBING), "",
        "Every verb takes --help and --json. Everyday verbs that change something take --dry-run.",
        "Exit codes: 0 ok, 1 failed, 2 usage, 75 busy, 77 nothing to do, 78 bad configuration.",
        "--help --all also lists what units and hooks call. See k8r-agent(8), k8r-recovery(7).",
    )
    return Exit.OK


def _group_help(console: Console, verb: Verb) -> int:
    console.say(f"usage: {PROGRAM} {verb.name} VERB [OPTIONS]", "", f"{verb.summary}.", "",
                *(f"  {member.name:<14} {member.summary}" for member in verb.members))
    return Exit.OK


def _silence(console: Console) -> int:
    """The reader went away (`| head`): keep the interpreter from complaining at exit."""
    import os

    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), console.out.fileno())
    except (OSError, ValueError):
        pass
    return Exit.OK


def _internal(error: Exception, console: Console) -> int:
    if console.debug:
        import traceback

        console.note(traceback.format_exc().rstrip())
    what = str(error).splitlines()[0] if str(error) else ""
    report = K8rError(
        "a mistake in k8r-agent itself", why=f"{type(error).__name__}: {what}".rstrip(": "),
        hint="run it again with SYSTEMD_LOG_LEVEL=debug and report what it prints; the state of the node is in "
             "`k8r-agent status`",
    )
    report.code = "internal"
    console.error(report)
    return int(Exit.FAILED)
