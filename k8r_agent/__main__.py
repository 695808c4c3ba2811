"""Entry point of the node's command."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from k8r_agent.cli.app import main as cli


def main(argv: Sequence[str] | None = None) -> int:
    return cli(sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
