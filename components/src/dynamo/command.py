"""The `dynamo` command, and components that are part of it.

The command is the extension's: `dynamo X` and `python3 -m dynamo.X` are the same code with the same
options, whichever way it was installed.
"""

import os
import sys
from collections.abc import Sequence

from dynamo import _core


def main() -> None:
    """`dynamo ...`"""
    _end(_core.command(sys.argv, sys.executable))


def component(name: Sequence[str]) -> None:
    """`python3 -m dynamo.NAME ...`, which is `dynamo NAME ...`"""
    _end(_core.command(["dynamo", *name, *sys.argv[1:]], sys.executable))


def _end(status: int) -> None:
    sys.stdout.flush()
    # The command has put itself in order; the interpreter has nothing of its own to end.
    os._exit(status)
