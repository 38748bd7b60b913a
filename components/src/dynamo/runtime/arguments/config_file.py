"""Reading a configuration file: YAML or TOML, by its name."""

import re
import sys
from pathlib import Path
from typing import Any

from dynamo.runtime.arguments import yaml_subset
from dynamo.runtime.arguments.document import Items, Node, Scalar, SyntaxTrouble, Table

#: Longer files are no configuration; reading one must not fill the memory.
MAX_BYTES = 4 * 1024 * 1024


class FileTrouble(ValueError):
    """A file cannot be read as what its name says; the message says where and why."""


def read(path: Path) -> Table:
    """What a file holds.

    Raises:
        FileTrouble: it cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix not in (".yaml", ".yml", ".json", ".toml"):
        raise FileTrouble(
            f"{path} is neither YAML nor TOML by its name; call it .yaml, .yml or .toml"
        )
    try:
        if path.stat().st_size > MAX_BYTES:
            raise FileTrouble(f"{path} is larger than {MAX_BYTES} bytes, which no configuration is")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise FileTrouble(f"cannot read the config file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise FileTrouble(f"cannot read the config file {path}: it is not UTF-8") from error
    try:
        return _toml(text) if suffix == ".toml" else yaml_subset.parse(text)
    except SyntaxTrouble as error:
        raise FileTrouble(f"cannot read file {path}:{error.line}: {error}") from error


def _toml(text: str) -> Table:
    if sys.version_info >= (3, 11):
        import tomllib

        try:
            # Numbers keep the text they were written as.
            values = tomllib.loads(text, parse_float=str)
        except tomllib.TOMLDecodeError as error:
            found = re.search(r"\(at line (\d+)", str(error))
            line = int(found[1]) if found else len(text.split("\n"))
            message = re.sub(r" \(at .*\)$", "", str(error))
            raise SyntaxTrouble(line, message[:1].lower() + message[1:]) from None
        return _table(values, _Lines(text), ())
    raise SyntaxTrouble(1, "reading TOML needs Python 3.11 or later; write YAML")


class _Lines:
    """The lines of keys, which Python's reader of TOML does not tell: found by what they look like."""

    def __init__(self, text: str) -> None:
        self.found: dict[tuple[str, ...], int] = {}
        table: tuple[str, ...] = ()
        for number, line in enumerate(text.split("\n"), start=1):
            if header := re.match(r"\s*\[+([^\]]+)\]", line):
                table = _path(header[1])
                self.found.setdefault(table, number)
            elif key := re.match(r"\s*([A-Za-z0-9_\-.\"' ]+?)\s*=", line):
                self.found.setdefault((*table, *_path(key[1])), number)

    def of(self, path: tuple[str, ...]) -> int:
        while path and path not in self.found:
            path = path[:-1]
        return self.found.get(path, 1)


def _path(text: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in text.split("."))


def _table(values: dict[str, Any], lines: _Lines, path: tuple[str, ...]) -> Table:
    table = Table(lines.of(path))
    for key, value in values.items():
        table.lines[key] = lines.of((*path, key))
        table.entries[key] = _node(value, lines, (*path, key))
    return table


def _node(value: Any, lines: _Lines, path: tuple[str, ...]) -> Node:
    line = lines.of(path)
    if isinstance(value, dict):
        return _table(value, lines, path)
    if isinstance(value, list):
        return Items(line, tuple(_node(item, lines, path) for item in value))
    if isinstance(value, bool):
        return Scalar(line, str(value).lower())
    # A text keeps its quotes' meaning: "true" is a text.
    return Scalar(line, str(value), is_plain=not isinstance(value, str) or _is_number(value))


def _is_number(text: str) -> bool:
    """Whether a text may be what `parse_float` made of a number."""
    return (
        re.fullmatch(r"[+-]?(\d[\d_]*\.\d[\d_]*([eE][+-]?\d+)?|\d+[eE][+-]?\d+|inf|nan)", text)
        is not None
    )
