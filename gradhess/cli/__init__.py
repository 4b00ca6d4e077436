"""The command line: ``gradhess demo``, ``gradhess fit``, ``gradhess info``."""

from __future__ import annotations

import sys

_NEEDED = ("typer", "rich", "pyarrow", "matplotlib")


def main() -> None:
    """Run the command line; say how to install what it needs if that is missing."""
    try:
        from gradhess.cli.app import run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in _NEEDED:
            raise
        print(f'the command line needs {error.name}: pip install "gradhess[cli]"', file=sys.stderr)
        raise SystemExit(1) from None
    run()
