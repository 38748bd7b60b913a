"""What a configuration file holds, whatever its format: values as they were written, with lines."""

from collections.abc import Iterator
from dataclasses import dataclass, field

#: Plain words that mean nothing, and those that mean yes and no.
_NULLS = ("", "~", "null", "Null", "NULL")
_TRUE = ("true", "True", "TRUE")
_FALSE = ("false", "False", "FALSE")


class SyntaxTrouble(ValueError):
    """A file is not of its format.

    Attributes:
        line: where, from 1.
    """

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True)
class Scalar:
    """One value.

    Attributes:
        text: as it was written, without quotes.
        is_plain: it had none, so that `true` is a boolean and `null` is nothing.
    """

    line: int
    text: str
    is_plain: bool = True

    @property
    def is_null(self) -> bool:
        """Whether it says that there is no value."""
        return self.is_plain and self.text in _NULLS

    @property
    def boolean(self) -> bool | None:
        """What it means as a boolean, if it is one."""
        if not self.is_plain or self.text not in _TRUE + _FALSE:
            return None
        return self.text in _TRUE


@dataclass(frozen=True)
class Items:
    """Several values."""

    line: int
    items: tuple["Node", ...]


@dataclass(frozen=True)
class Table:
    """Values by their keys."""

    line: int
    entries: dict[str, "Node"] = field(default_factory=dict)
    #: The line of each key.
    lines: dict[str, int] = field(default_factory=dict)

    def __iter__(self) -> Iterator[tuple[str, "Node", int]]:
        """Keys with their values and lines, in the order of the file."""
        for key, node in self.entries.items():
            yield key, node, self.lines[key]


Node = Scalar | Items | Table


def plain(node: Node) -> object:
    """The value as JSON has it."""
    if isinstance(node, Table):
        return {key: plain(value) for key, value, _ in node}
    if isinstance(node, Items):
        return [plain(item) for item in node.items]
    if node.is_null:
        return None
    if node.boolean is not None:
        return node.boolean
    return _number(node.text) if node.is_plain else node.text


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
