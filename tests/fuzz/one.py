"""One target under atheris, which searches as libFuzzer does: python3 -m tests.fuzz.one NAME [libFuzzer options]."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["k8r_agent"]):
    from tests.fuzz import targets


def main() -> None:
    name = sys.argv.pop(1)
    atheris.Setup(sys.argv, lambda data: targets.run(name, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
