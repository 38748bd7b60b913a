"""The text of `--print-config`: TOML, one table per group, each value with its source.

The same form as that of the `dynamo` command.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from dynamo.runtime.arguments.declaration import Option
from dynamo.runtime.arguments.layers import Source


def effective(
    options: Iterable[Option], values: Mapping[str, Any], sources: Mapping[str, Source]
) -> str:
    """Every option with its value."""
    text, group = "", ""
    for option in options:
        if option.group != group:
            gap = "\n" if text else ""
            group = option.group
            text += f"{gap}[{group}]\n"
        shown = _toml(option.show(values[option.key]), option.kind.is_bare)
        text += f"{option.key} = {shown}  # {sources[option.key]}\n"
    return text


def engine(name: str, words: Iterable[tuple[str, Source]]) -> str:
    """What goes to an engine, in its own words."""
    text = f"\n[engine]  # {name}'s own; what is not named has its default\n"
    for word, source in words:
        text += f"# {word}  # {source}\n"
    return text


def _toml(shown: str | list[str], is_bare: bool) -> str:
    if isinstance(shown, list):
        return "[" + ", ".join(_toml(item, is_bare) for item in shown) + "]"
    # A bare kind that is unset is a text.
    if is_bare and shown != "none":
        return shown
    return json.dumps(shown, ensure_ascii=False)
