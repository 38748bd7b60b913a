"""A graph: components that call each other, checked as a whole. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dynamo.graph.component import Component
from dynamo.graph.endpoint import EndpointPath, is_name
from dynamo.runtime.arguments.nearest import suggestion

#: Components of one graph: more than any has, so that a list that was made by mistake is told.
MAX_COMPONENTS = 100

#: Processes of one component.
MAX_REPLICAS = 1_000


class GraphError(ValueError):
    """A graph makes no sense.

    Attributes:
        problems: everything that is wrong with it.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True)
class Graph:
    """Components, in the order in which they were listed."""

    components: tuple[Component, ...]
    #: Whom each calls, by names.
    calls: dict[str, tuple[str, ...]]

    @classmethod
    def of(cls, entries: Sequence[Any]) -> "Graph":
        """Checks what a module lists: components, or classes and instances of `BaseDeployment`.

        Raises:
            GraphError: it makes no sense as a whole.
        """
        problems: list[str] = []
        components = tuple(_components(entries, problems))
        if not components and not problems:
            problems.append("the graph has no components; list at least one")
        calls = {}
        for component in components:
            problems += _own_problems(component)
            calls[component.name] = tuple(_called(component, components, problems))
        problems += _twice(components)
        if not problems and (circle := _circle(calls)):
            shown = " -> ".join(circle)
            problems.append(
                f"components call each other in a circle, so that none can be asked to end first: "
                f"{shown}; leave one of these out of calls"
            )
        if problems:
            raise GraphError(problems)
        return cls(components, calls)

    def stages(self) -> list[list[Component]]:
        """Components in the order in which they are asked to end: whoever calls others goes before
        those, and all of a stage go together."""
        left = list(self.components)
        stages = []
        while left:
            called = {name for component in left for name in self.calls[component.name]}
            stage = [component for component in left if component.name not in called]
            stages.append(stage)
            left = [component for component in left if component not in stage]
        return stages


def _components(entries: Sequence[Any], problems: list[str]) -> Iterator[Component]:
    if isinstance(entries, str | bytes) or not isinstance(entries, Sequence):
        problems.append(
            f"a graph is a list of BaseDeployment classes or components, not {_kind(entries)}"
        )
        return
    if len(entries) > MAX_COMPONENTS:
        problems.append(f"the graph has {len(entries)} components; {MAX_COMPONENTS} are the most")
        return
    for index, entry in enumerate(entries):
        try:
            component = component_of(entry)
        except (TypeError, ValueError) as error:
            problems.append(f"component {index + 1} of the graph: {error}")
            continue
        if component is None:
            problems.append(
                f"component {index + 1} of the graph is {_kind(entry)}; list a class derived from "
                "dynamo.deploy.BaseDeployment, or a dynamo.graph.Component"
            )
            continue
        yield component


def component_of(entry: Any) -> Component | None:
    """The component that an entry of a graph means; `None` if it means none."""
    if isinstance(entry, Component):
        return entry
    made = getattr(entry, "component", None)
    if made is None or not callable(made):
        return None
    component = made() if not isinstance(entry, type) else entry().component()
    return component if isinstance(component, Component) else None


def _own_problems(component: Component) -> Iterator[str]:
    name = component.name
    for what, text in [("namespace", component.namespace), ("name", name)]:
        if not is_name(text):
            yield f'{name}: {what} "{text}" needs to consist of letters, digits, - and _'
    for endpoint in component.endpoints:
        if not is_name(endpoint):
            yield f'{name}: endpoint "{endpoint}" needs to consist of letters, digits, - and _'
    if not component.module:
        yield f"{name}: module is empty; name what python3 -m starts, such as dynamo.mocker"
    is_count = isinstance(component.replicas, int) and not isinstance(component.replicas, bool)
    if not is_count or not 0 <= component.replicas <= MAX_REPLICAS:
        yield f"{name}: replicas is {component.replicas!r}; give a number from 0 to {MAX_REPLICAS}"


def _called(
    component: Component, components: Sequence[Component], problems: list[str]
) -> Iterator[str]:
    """The names of the components that one calls."""
    served = {path: it.name for it in components for path in it.paths}
    by_text = {str(path): name for path, name in served.items()}
    if isinstance(component.calls, str):
        problems.append(f'{component.name}: calls is a text; write calls = ["{component.calls}"]')
        return
    for call in component.calls:
        paths: list[EndpointPath]
        try:
            called = component_of(call)
            paths = called.paths if called else [EndpointPath.parse(str(call))]
        except ValueError as error:
            problems.append(f"{component.name} calls {error}")
            continue
        for path in paths:
            if (name := served.get(path)) is not None:
                yield name
            else:
                hint = suggestion(str(path), by_text) or (
                    f"; the graph has {', '.join(by_text)}" if by_text else ""
                )
                problems.append(f"{component.name} calls {path}, which nobody serves{hint}")


def _twice(components: Sequence[Component]) -> Iterator[str]:
    seen = set()
    for component in components:
        # Kubernetes and people tell names apart by neither.
        folded = component.name.lower().replace("_", "-")
        if folded in seen:
            yield f"two components are called {component.name}; give each a name of its own"
        seen.add(folded)


def _circle(calls: dict[str, tuple[str, ...]]) -> list[str]:
    """A way from a component back to itself, or nothing."""
    done: set[str] = set()

    def walk(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        for called in calls[name]:
            if found := walk(called, [*way, name]):
                return found
        done.add(name)
        return []

    return next((found for name in calls if (found := walk(name, []))), [])


def _kind(value: Any) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return f"{value!r:.40} ({type(value).__name__})"
