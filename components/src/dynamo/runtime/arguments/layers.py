"""From sources to values: flag, then environment, then file, then default. Pure.

Only the source that wins is read: what it overrides may hold anything. Every option is resolved
even when another one failed, so that one run shows every problem.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dynamo.runtime.arguments.declaration import Option, Raw, Shape, names
from dynamo.runtime.arguments.document import Items, Node, Scalar, Table, plain
from dynamo.runtime.arguments.kinds import BY_NAME, BadValue
from dynamo.runtime.arguments.nearest import nearest

#: Longest part of a bad value that a message shows, in characters.
_MAX_SHOWN = 80

#: The section of a file that holds an engine's own options and nothing else.
ENGINE_SECTION = "engine"


@dataclass(frozen=True)
class Source:
    """Where a value comes from.

    Attributes:
        kind: `flag`, `env`, `file` or `default`.
        name: of the flag, of the variable, or `FILE:LINE`.
    """

    kind: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}".rstrip()


DEFAULT = Source("default")


@dataclass
class ConfigFile:
    """A file with its name as the user gave it."""

    name: str
    table: Table

    def source(self, line: int) -> Source:
        """A line of it."""
        return Source("file", f"{self.name}:{line}")


@dataclass
class EngineValue:
    """An engine's own option in a file."""

    key: str
    node: Node
    source: Source


@dataclass
class Resolved:
    """What came of all sources."""

    values: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)
    engine: list[EngineValue] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def resolve(
    options: Sequence[Option],
    section: str,
    flags: Mapping[str, Raw],
    environment: Mapping[str, str],
    file: ConfigFile | None,
    engine_keys: frozenset[str] | None = None,
) -> Resolved:
    """The value of every option.

    Args:
        section: the component's own part of a file.
        flags: what the command line says, by the options' keys.
        engine_keys: what an engine's parser knows; `None` where there is no engine.
    """
    resolved = Resolved()
    in_file = _file_values(options, section, file, engine_keys, resolved)
    for option in options:
        raw, source = _winner(option, flags, environment, in_file)
        resolved.values[option.key], resolved.sources[option.key] = option.default, source
        if source is DEFAULT:
            if option.required:
                resolved.problems.append(f"{option.key} has no value; give it as {option.ways}")
            continue
        try:
            resolved.values[option.key] = option.read(raw)
        except BadValue as error:
            shown = "the value" if option.is_secret else _shown(raw)
            resolved.problems.append(f"{option.key} ({source}): {shown} {error}")
    return resolved


def unknown_variables(
    options: Sequence[Option], environment: Mapping[str, str]
) -> list[tuple[str, str]]:
    """Variables that look like misspelt ones of these options, each with what it may mean. Others
    belong to other components, which share the environment."""
    known = {name for option in options for name in option.env} | {"DYN_CONFIG"}
    rests = [name.removeprefix("DYN_") for name in known if name.startswith("DYN_")]
    found = []
    for name in sorted(environment):
        if name.startswith("DYN_") and name not in known:
            close = nearest(name.removeprefix("DYN_"), rests)
            if close is not None:
                found.append((name, f"DYN_{close}"))
    return found


def _winner(
    option: Option,
    flags: Mapping[str, Raw],
    environment: Mapping[str, str],
    in_file: Mapping[str, tuple[Raw, Source]],
) -> tuple[Raw, Source]:
    if option.key in flags:
        return flags[option.key], Source("flag", option.flag)
    for name in option.env:
        if (text := environment.get(name)) is not None:
            is_list = option.shape is Shape.MANY
            # Items of a list are parted by commas and white space.
            return re.split(r"[,\s]+", text) if is_list else text, Source("env", name)
    return in_file.get(option.key, (None, DEFAULT))


def _file_values(
    options: Sequence[Option],
    section: str,
    file: ConfigFile | None,
    engine_keys: frozenset[str] | None,
    resolved: Resolved,
) -> dict[str, tuple[Raw, Source]]:
    if file is None:
        return {}
    reader = _FileReader(options, section, file, engine_keys, resolved)
    reader.top()
    return reader.values


@dataclass
class _FileReader:
    options: Sequence[Option]
    section: str
    file: ConfigFile
    engine_keys: frozenset[str] | None
    resolved: Resolved
    values: dict[str, tuple[Raw, Source]] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.by_key = {option.key: option for option in self.options}
        self.groups = {option.group for option in self.options if option.is_worker}

    def problem(self, line: int, key: str, text: str) -> None:
        self.resolved.problems.append(f"{key} ({self.file.source(line)}) {text}")

    def top(self) -> None:
        for key, node, line in self.file.table:
            is_section = key in (self.section, *self.groups) or (
                key == ENGINE_SECTION and self.engine_keys is not None
            )
            if is_section and not (_folded(key) in self.by_key and not isinstance(node, Table)):
                self.group(key, node, line)
            elif not self.entry(key, node, line):
                self.unknown(key, key, line)

    def group(self, group: str, node: Node, line: int) -> None:
        if isinstance(node, Scalar) and node.is_null:
            # A group whose keys are all commented out.
            return
        if not isinstance(node, Table):
            self.problem(line, group, f"takes the options of the group {group} below it")
            return
        for key, value, at in node:
            if group == ENGINE_SECTION:
                known = self.engine(key, value, at)
            elif group == self.section:
                known = self.entry(key, value, at)
            else:
                option = self.by_key.get(_folded(key))
                known = option is not None and option.group == group and self.entry(key, value, at)
            if not known:
                self.unknown(key, f"{group}.{key}", at)

    def entry(self, key: str, node: Node, line: int) -> bool:
        """Takes a value of ours or of the engine's. Whether there is such an option."""
        option = self.by_key.get(_folded(key))
        if option is None:
            return self.engine(key, node, line)
        if option.key in self.lines:
            first = self.lines[option.key]
            self.problem(line, key, f"stands on line {first} already; keep one of them")
            return True
        raw = _raw(option, node)
        if isinstance(raw, _Nested):
            what = "a list of values, each" if option.shape is Shape.MANY else "one value:"
            self.problem(line, key, f"takes {what} {option.kind.form}")
            return True
        self.lines[option.key] = line
        self.values[option.key] = (raw, self.file.source(line))
        return True

    def engine(self, key: str, node: Node, line: int) -> bool:
        if self.engine_keys is None or _folded(key) not in self.engine_keys:
            return False
        self.resolved.engine.append(EngineValue(_folded(key), node, self.file.source(line)))
        return True

    def unknown(self, key: str, shown: str, line: int) -> None:
        # What a flag is called leads to the key that files have for it.
        keys = {name: option.key for option in self.options for name in names([option])}
        known = [*keys, self.section, *self.groups, *(self.engine_keys or ())]
        close = nearest(key, known)
        hint = f"; did you mean {keys.get(close, close)}" if close else ""
        self.resolved.problems.append(f"unknown key {shown} ({self.file.source(line)}){hint}")


class _Nested:
    """A value that holds others where one is expected."""


def _raw(option: Option, node: Node) -> Raw | _Nested:
    if isinstance(node, Scalar):
        return None if node.is_null else node.text
    if isinstance(node, Items) and all(isinstance(item, Scalar) for item in node.items):
        return [item.text for item in node.items if isinstance(item, Scalar)]
    if BY_NAME.get(option.kind.name) is None and option.kind.name != "choice":
        # Options with a reader of their own take such values as JSON on command lines.
        return json.dumps(plain(node))
    return _Nested()


def _folded(key: str) -> str:
    return key.replace("-", "_")


def _shown(raw: Raw) -> str:
    text = "null" if raw is None else ", ".join(raw) if isinstance(raw, list) else raw
    cut = "..." if len(text) > _MAX_SHOWN else ""
    return json.dumps(text[:_MAX_SHOWN], ensure_ascii=False) + cut
