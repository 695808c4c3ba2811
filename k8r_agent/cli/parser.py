"""argparse that raises instead of exiting, and the options that several verbs share."""

from __future__ import annotations

import argparse
import os
from typing import NoReturn

from k8r_agent.errors import UsageError


class _Formatter(argparse.HelpFormatter):
    """argparse asks shutil for the width each time an option is declared, which costs more than the declaration."""

    def __init__(self, prog: str) -> None:
        columns = os.environ.get("COLUMNS", "")
        super().__init__(prog, width=(int(columns) if columns.isdigit() else 100) - 2)


class Parser(argparse.ArgumentParser):
    def __init__(self, *, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description + ".", allow_abbrev=False, formatter_class=_Formatter)

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"{self.prog} --help")


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """For the verbs that submit a task."""
    parser.add_argument("--dry-run", action="store_true", help="print the plan the engine would run, change nothing")
    parser.add_argument("--no-wait", action="store_true", help="submit and return, do not follow")
    parser.add_argument("--foreground", action="store_true",
                        help="run the task in this process instead of k8r-runner.service")
    parser.add_argument("--exit-77", action="store_true", help="exit 77 instead of 0 when there is nothing to do")


def add_yes(parser: argparse.ArgumentParser, meaning: str = "do not ask") -> None:
    parser.add_argument("-y", "--yes", action="store_true", help=meaning)
