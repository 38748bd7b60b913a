"""Flags of the runtime, which every worker takes and passes on to `DistributedRuntime`.

They are declared in the extension (`docs/reference/worker.md`), which checks their values; here is
only which words of a command line are theirs.
"""

import functools
import itertools
from collections.abc import Sequence

from dynamo import _core
from dynamo.engine import engine_words

#: What a worker takes by itself, and passes on with what it made of it.
_OWN = "--namespace"


@functools.cache
def names() -> tuple[frozenset[str], frozenset[str]]:
    """Flags with a value, and flags that are on or, with `--no-`, off."""
    values: set[str] = set()
    switches: set[str] = set()
    for option in _core.worker_options():
        flags = {option["flag"], *option["aliases"], *option["deprecated_aliases"]}
        (switches if option["type"] == "boolean" else values).update(flags)
    return frozenset(values - {_OWN}), frozenset(switches)


def take(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Parts the runtime's words from the others, both in their order.

    A flag at the end that lacks its value is left to the extension, which says so.
    """
    values, switches = names()
    theirs: list[str] = []
    others: list[str] = []
    rest = iter(words)
    for word in rest:
        name, has_value, _ = word.partition("=")
        if name in values:
            theirs.append(word)
            if not has_value:
                theirs.extend(itertools.islice(rest, 1))
        elif name in switches or name.replace("--no-", "--", 1) in switches:
            theirs.append(word)
        else:
            others.append(word)
    return theirs, others


def value_of(words: Sequence[str], flag: str) -> str | None:
    """What the words say of a flag, the last of them; `None` if nothing."""
    values = [value for name, value in engine_words.said(words) if name == flag]
    return values[-1] if values else None
