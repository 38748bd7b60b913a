"""Flags that are an engine's own: found by what its parser declares, checked by that parser.

vLLM has hundreds of flags, and each version has others: none of them is written down here.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from dynamo.runtime.arguments.document import Items, Node, Scalar, Table, plain
from dynamo.runtime.arguments.layers import EngineValue, Source

_HELP = frozenset(["-h", "--help"])


class EngineRefuses(ValueError):
    """What the engine's parser says of its flags."""


@dataclass
class Engine:
    """An engine's command line.

    Attributes:
        name: as messages call it.
        open: makes the engine's parser; importing engines takes long, so it is asked for late.
        kept: flags of the engine that Dynamo answers by itself.
    """

    name: str
    open: Callable[[], argparse.ArgumentParser]
    kept: frozenset[str] = frozenset()
    _parser: argparse.ArgumentParser | None = field(default=None, repr=False)

    @property
    def parser(self) -> argparse.ArgumentParser:
        """The engine's parser."""
        if self._parser is None:
            self._parser = self.open()
        return self._parser

    @property
    def flags(self) -> dict[str, argparse.Action]:
        """What its parser understands, without what it would answer itself."""
        known: dict[str, argparse.Action] = self.parser._option_string_actions
        return {flag: action for flag, action in known.items() if flag not in _HELP}

    @property
    def keys(self) -> frozenset[str]:
        """Its options in files: flags without dashes in front, `_` for `-`."""
        return frozenset(flag[2:].replace("-", "_") for flag in self.flags if flag[:2] == "--")

    def undecided(self, own: Iterable[str]) -> frozenset[str]:
        """Flags that both Dynamo and the engine declare, and that nobody has decided about."""
        return frozenset(self.flags).intersection(own) - self.kept

    def spelling(self, flag: str) -> str | None:
        """A flag as the engine's parser spells it; `None` if it has none such. What follows a dot
        names a part of the option's value."""
        name, dot, part = flag.partition(".")
        for known in (name, name.replace("_", "-"), name.replace("-", "_")):
            spelled = known if known.startswith("--") else f"--{known.lstrip('_')}"
            if spelled in self.flags:
                return f"{spelled}{dot}{part}"
        return None

    def words_of(self, value: EngineValue) -> list[str]:
        """An option of a file in the engine's own words."""
        flag = self.spelling(f"--{value.key}")
        if flag is None:
            raise EngineRefuses(f"{value.key} ({value.source}) is no option of {self.name}")
        return _words(flag, self.flags[flag], value.node)

    def without(self, values: Sequence[EngineValue], words: Sequence[str]) -> list[EngineValue]:
        """The values of a file that the command line does not override."""
        given = set()
        for word in words:
            spelled = self.spelling(word.partition("=")[0]) if word.startswith("--") else word
            action = self.flags.get((spelled or "").partition(".")[0])
            given.add(action.dest if action else "")
        found = []
        for value in values:
            flag = self.spelling(f"--{value.key}")
            if flag is None or self.flags[flag].dest not in given:
                found.append(value)
        return found

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """What the engine's parser makes of these words.

        Raises:
            EngineRefuses: it does not take them; the message is the engine's own.
        """
        parser = self.parser
        own = parser.error

        def refuse(message: str) -> None:
            raise EngineRefuses(message)

        # Its usage would be pages of flags, with the message at their end.
        parser.error = refuse  # type: ignore[method-assign,assignment]
        try:
            return parser.parse_args(list(words))
        finally:
            parser.error = own  # type: ignore[method-assign]


def shown(values: Iterable[tuple[list[str], Source]]) -> list[tuple[str, Source]]:
    """Words as people would write them, with their sources."""
    import shlex

    return [(shlex.join(words), source) for words, source in values]


def _words(flag: str, action: argparse.Action, node: Node) -> list[str]:
    if isinstance(node, Table):
        return [flag, json.dumps(plain(node))]
    if isinstance(node, Items):
        if not all(isinstance(item, Scalar) for item in node.items):
            return [flag, json.dumps(plain(node))]
        texts = [item.text for item in node.items if isinstance(item, Scalar)]
        if isinstance(action, argparse._AppendAction):
            return [word for text in texts for word in (flag, text)]
        return [flag, *texts]
    if node.is_null:
        return []
    is_switch = action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction)
    if is_switch and node.boolean is not None:
        return _switch(flag, action, node.boolean)
    # A value that looks like a flag is joined to its own.
    return [f"{flag}={node.text}"] if node.text.startswith("-") else [flag, node.text]


def _switch(flag: str, action: argparse.Action, is_on: bool) -> list[str]:
    if is_on:
        return [flag]
    off = f"--no-{flag[2:]}"
    # A switch that is off unless it is given is off when it is left out.
    return [off] if off in action.option_strings else []
