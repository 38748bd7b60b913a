"""From a graph and a file to processes: each with its command line and what its environment adds.
Pure.

A section of the file is a component, by the name of its class or by its own. Its keys are flags:

    Common:
      model-name: qwen3

    Worker:
      common-configs: [model-name]    # or `all`
      speedup-ratio: 10
      ServiceArgs:
        workers: 2
        environment: {DYN_LOG: debug}

`Common` gives nothing to anybody who does not ask for it.
"""

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from dynamo.graph import words
from dynamo.graph.component import Component
from dynamo.graph.graph import MAX_REPLICAS, Graph
from dynamo.runtime.arguments.declaration import Option
from dynamo.runtime.arguments.document import Items, Node, Scalar, Table
from dynamo.runtime.arguments.layers import ConfigFile
from dynamo.runtime.arguments.nearest import suggestion

COMMON = "Common"
COMMON_CONFIGS = "common-configs"
SERVICE_ARGS = "ServiceArgs"
ALL = "all"

_SERVICE_KEYS = ("workers", "replicas", "environment", "resources")


class PlanError(ValueError):
    """A file does not fit its graph; one problem per line."""


@dataclass(frozen=True)
class Process:
    """A process to start.

    Attributes:
        name: before each of its lines.
        component: whose process it is.
        stage: components of lower stages are asked to end first.
        words: its command line.
        environment: what it has beside this process's own environment.
    """

    name: str
    component: str
    stage: int
    words: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)

    def shown(self) -> str:
        """The command line as a shell takes it."""
        added = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items()]
        return " ".join([*added, shlex.join(self.words)])


def plan(graph: Graph, file: ConfigFile | None, python: str) -> list[Process]:
    """The processes of a graph, in the order in which they are started: whoever is called before
    those who call.

    Raises:
        PlanError: the file does not fit the graph.
    """
    planner = _Planner(graph, file, python)
    processes = list(planner.processes())
    if planner.problems:
        raise PlanError("\n".join(planner.problems))
    return processes


@dataclass(frozen=True)
class _Given:
    """An option as it was written, and where."""

    key: str
    node: Node
    place: str


@dataclass
class _Section:
    """What a file says of a component."""

    options: dict[str, "_Given"] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    replicas: int | None = None


class _Planner:
    def __init__(self, graph: Graph, file: ConfigFile | None, python: str) -> None:
        self.graph = graph
        self.file = file
        self.python = python
        self.problems: list[str] = []
        self.table = file.table if file else Table(0)

    def processes(self) -> Iterator[Process]:
        self.check_sections()
        stages = self.graph.stages()
        for number, stage in reversed(list(enumerate(stages))):
            for component in stage:
                yield from self.component(component, number)

    def component(self, component: Component, stage: int) -> Iterator[Process]:
        section = self.section(component)
        own = self.words(component, section)
        environment = {**component.environment, **section.environment}
        replicas = component.replicas if section.replicas is None else section.replicas
        for index in range(replicas):
            yield Process(
                name=component.name if replicas == 1 else f"{component.name}.{index}",
                component=component.name,
                stage=stage,
                words=(self.python, "-m", component.module, *own),
                environment={name: str(value) for name, value in environment.items()},
            )

    # -- the file

    def place(self, line: int) -> str:
        return str(self.file.source(line)) if self.file else "default"

    def names(self, component: Component) -> tuple[str, ...]:
        """What the file may call a component: several may have classes of one name."""
        titles = [it.title for it in self.graph.components]
        is_own = titles.count(component.title) == 1
        return component.names if is_own else (component.name,)

    def check_sections(self) -> None:
        known = [name for it in self.graph.components for name in self.names(it)]
        for key, _, line in self.table:
            if key != COMMON and key not in known:
                hint = suggestion(key, [*known, COMMON]) or f"; the graph has {', '.join(known)}"
                self.problems.append(f"unknown component {key} ({self.place(line)}){hint}")

    def section(self, component: Component) -> _Section:
        section = _Section()
        found = [name for name in self.names(component) if name in self.table.entries]
        if len(found) > 1:
            one, other = found
            line = self.table.lines[other]
            self.problems.append(
                f"{other} ({self.place(line)}) is {one}, which has a section of its own already; "
                "keep one of them"
            )
        for name in found[:1]:
            node, line = self.table.entries[name], self.table.lines[name]
            if isinstance(node, Table):
                self.read_section(name, node, section)
            elif not (isinstance(node, Scalar) and node.is_null):
                self.problems.append(
                    f"{name} ({self.place(line)}) takes the component's options below it"
                )
        return section

    def read_section(self, name: str, table: Table, section: _Section) -> None:
        common: dict[str, _Given] = {}
        for key, node, line in table:
            if _is(key, COMMON_CONFIGS):
                common = dict(self.common(name, node, line))
            elif _is(key, SERVICE_ARGS):
                self.service(name, node, line, section)
            else:
                section.options[_folded(key)] = _Given(key, node, self.place(line))
        section.options = {**common, **section.options}

    def common(self, name: str, node: Node, line: int) -> Iterator[tuple[str, "_Given"]]:
        shared = self.table.entries.get(COMMON)
        if not isinstance(shared, Table):
            text = f"{name}.{COMMON_CONFIGS} ({self.place(line)}) names keys of {COMMON}, which the file does not have"
            self.problems.append(text)
            return
        wanted: Iterable[str]
        if isinstance(node, Scalar) and node.text == ALL:
            wanted = shared.entries
        elif isinstance(node, Items) and all(isinstance(it, Scalar) for it in node.items):
            wanted = [item.text for item in node.items if isinstance(item, Scalar)]
        else:
            self.problems.append(
                f"{name}.{COMMON_CONFIGS} ({self.place(line)}) takes a list of keys of {COMMON}, or {ALL}"
            )
            return
        by_name = {_folded(key): key for key in shared.entries}
        for key in wanted:
            if (found := by_name.get(_folded(key))) is not None:
                place = self.place(shared.lines[found])
                yield _folded(key), _Given(found, shared.entries[found], place)
            else:
                hint = suggestion(key, shared.entries)
                text = f"{name}.{COMMON_CONFIGS} ({self.place(line)}): {COMMON} has no {key}{hint}"
                self.problems.append(text)

    def service(self, name: str, node: Node, line: int, section: _Section) -> None:
        if not isinstance(node, Table):
            text = f"{name}.{SERVICE_ARGS} ({self.place(line)}) takes {', '.join(_SERVICE_KEYS)} below it"
            self.problems.append(text)
            return
        for key, value, at in node:
            shown = f"{name}.{SERVICE_ARGS}.{key} ({self.place(at)})"
            if key in ("workers", "replicas"):
                section.replicas = self.count(shown, value)
            elif key == "environment":
                section.environment = dict(self.variables(shown, value))
            elif key != "resources":
                # What a process needs is for those who place processes; here it stays on record.
                hint = suggestion(key, _SERVICE_KEYS) or f"; use {', '.join(_SERVICE_KEYS)}"
                self.problems.append(f"unknown key {shown}{hint}")

    def count(self, shown: str, node: Node) -> int:
        text = node.text if isinstance(node, Scalar) else ""
        if text.isdecimal() and int(text) <= MAX_REPLICAS:
            return int(text)
        self.problems.append(
            f'{shown}: "{text}" is no number of processes from 0 to {MAX_REPLICAS}'
        )
        return 0

    def variables(self, shown: str, node: Node) -> Iterator[tuple[str, str]]:
        if not isinstance(node, Table):
            self.problems.append(f"{shown} takes variables below it, as in DYN_LOG: debug")
            return
        for name, value, line in node:
            if isinstance(value, Scalar):
                yield name, value.text
            else:
                self.problems.append(f"{shown}: {name} ({self.place(line)}) takes one text")

    # -- command lines

    def words(self, component: Component, section: _Section) -> list[str]:
        """The flags of a component: its class's, and over them those of the file."""
        options = words.declared(component.module)
        given: dict[str, _Given] = {}
        found: list[str] = []
        if isinstance(component.arguments, Mapping):
            for key, value in component.arguments.items():
                place = f"arguments of {component.title or component.name}"
                given[_folded(str(key))] = _Given(str(key), words.of_python(value), place)
        else:
            found += [str(word) for word in component.arguments]
        for it in _merged(given, section.options, options).values():
            try:
                found += words.words(it.key, it.node, component.module, options)
            except words.BadOption as error:
                self.problems.append(f"{component.name} ({it.place}): {error}")
        return found


def _merged(
    given: dict[str, _Given],
    over: dict[str, _Given],
    options: Sequence[Option] | None,
) -> dict[str, _Given]:
    """Both, the second over the first; names of one option are one."""

    def canonical(key: str) -> str:
        for option in options or ():
            if key == option.key or f"--{key.replace('_', '-')}" in option.flags:
                return option.key
        return key

    merged = {canonical(key): value for key, value in given.items()}
    merged.update({canonical(key): value for key, value in over.items()})
    return merged


def _folded(key: str) -> str:
    return key.replace("-", "_")


def _is(key: str, name: str) -> bool:
    return key.replace("_", "").replace("-", "").lower() == name.replace("-", "").lower()
