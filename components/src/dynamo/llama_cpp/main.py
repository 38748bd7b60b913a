"""Starts a llama.cpp worker: `python3 -m dynamo.llama_cpp [dyn://NS.COMP.EP] --model-path M ...`.

The engine is part of the command: this is `dynamo run in=dyn://... out=llamacpp ...`, with the same
flags, and nothing else needs to be installed.
"""

import os
import sys
from collections.abc import Mapping, Sequence

from dynamo import command
from dynamo.engine import engine_words

_SCHEME = "dyn://"

#: Where workers are served, unless it is said.
DEFAULT_ENDPOINT = "dyn://dynamo.backend.generate"


def main() -> None:
    """Runs the worker with this process's arguments, and ends the process."""
    sys.argv[1:] = arguments(sys.argv[1:], os.environ)[1:]
    command.component(["run"])


def arguments(words: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """The words of the command: `--endpoint` is as for other workers, a path may stand for it, and
    `--namespace` moves the endpoint where none is named."""
    rest = list(words)
    endpoint = None
    if rest and rest[0].startswith(_SCHEME):
        endpoint = rest.pop(0)
    for at, word in enumerate(rest):
        name, has_value, value = word.partition("=")
        if name == "--endpoint":
            endpoint = value if has_value else next(iter(rest[at + 1 : at + 2]), "")
            del rest[at : at + (1 if has_value else 2)]
            break
    endpoint = endpoint or environment.get("DYN_ENDPOINT") or _default(rest, environment)
    if not endpoint.startswith(_SCHEME):
        endpoint = _SCHEME + endpoint
    return ["run", f"in={endpoint}", "out=llamacpp", *rest]


def _default(words: Sequence[str], environment: Mapping[str, str]) -> str:
    said = [value for name, value in engine_words.said(words) if name == "--namespace"]
    namespace = said[-1] if said else environment.get("DYN_NAMESPACE")
    return f"{_SCHEME}{namespace}.backend.generate" if namespace else DEFAULT_ENDPOINT
