"""`MODULE:GRAPH`: from what a command line names to a graph."""

import importlib
import importlib.util
import os
import pkgutil
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from dynamo.graph.graph import Graph, GraphError
from dynamo.runtime.arguments.nearest import nearest, suggestion

DEFAULT_NAME = "GRAPH"

_HERE = Path(__file__).parent


def load(target: str) -> Graph:
    """The graph that `MODULE:GRAPH` names.

    Instead of a list it may name one class: the graph is then that class and whatever it calls,
    directly or not, by naming classes.

    Raises:
        GraphError: there is none, or it makes no sense.
    """
    module_name, colon, name = target.partition(":")
    if not module_name or not all(part.isidentifier() for part in module_name.split(".")):
        meant = f"{_as_module(module_name)}:{name or DEFAULT_NAME}"
        raise GraphError([f'"{target}" names no module; write MODULE:GRAPH, as in {meant}'])
    name = name or DEFAULT_NAME
    module = _module(module_name)
    if not hasattr(module, name):
        public = [it for it in vars(module) if not it.startswith("_")]
        hint = suggestion(name, public) if colon else "; name what it has, as MODULE:NAME"
        raise GraphError([f"{_place(module)} has no {name}{hint}"])
    value = getattr(module, name)
    entries = value if not isinstance(value, type) else _reached(value)
    if isinstance(value, Graph):
        return value
    graph = Graph.of(entries)
    _check_modules(graph)
    return graph


def _reached(first: type) -> list[Any]:
    """A class and those that it calls."""
    found: list[Any] = []
    left: list[Any] = [first]
    while left:
        entry = left.pop(0)
        if entry in found:
            continue
        found.append(entry)
        calls = getattr(entry, "calls", ())
        left += [it for it in calls if isinstance(it, type)] if isinstance(calls, Sequence) else []
    return found


def _module(name: str) -> ModuleType:
    # As `python3 -m` does, so that what is found here is found by the components as well.
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if name == missing or name.startswith(f"{missing}."):
            hint = suggestion(missing.rpartition(".")[2], _siblings(missing)) or (
                f"; modules are looked for from {os.getcwd()} on, and where PYTHONPATH says"
            )
            raise GraphError([f"there is no module {missing}{hint}"]) from error
        raise GraphError([_broken(name, error)]) from error
    except Exception as error:
        raise GraphError([_broken(name, error)]) from error
    except SystemExit as error:
        raise GraphError([f"{name} ends the process when it is imported: {error}"]) from error


def _as_module(path: str) -> str:
    """What the path of a file is as a module; an example where it is none."""
    parts = Path(path).with_suffix("").parts
    is_path = bool(parts) and all(part.isidentifier() for part in parts)
    return ".".join(parts) if is_path else "examples.mocker.agg"


def _siblings(name: str) -> list[str]:
    """Modules that lie where one was looked for."""
    parent = name.rpartition(".")[0]
    try:
        places = list(importlib.import_module(parent).__path__) if parent else [os.getcwd()]
    except Exception:
        return []
    found = [module.name for module in pkgutil.iter_modules(places)]
    # Folders without __init__.py are packages, too.
    return found + [it.name for place in places for it in Path(place).glob("*") if it.is_dir()]


def _broken(name: str, error: Exception) -> str:
    frames = [it for it in traceback.extract_tb(error.__traceback__) if not _is_ours(it.filename)]
    if isinstance(error, SyntaxError):
        place = f"{error.filename}:{error.lineno}"
        return f"cannot import {name} ({place}): {error.msg}"
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"cannot import {name}{place}: {type(error).__name__}: {error}"


def _is_ours(file: str) -> bool:
    """Whether a file is not the user's: what is wrong does not stand there."""
    return "importlib" in file or Path(file).parent in (_HERE, _HERE.parent / "deploy")


def _place(module: ModuleType) -> str:
    file = getattr(module, "__file__", None)
    return f"{module.__name__} ({os.path.relpath(file)})" if file else module.__name__


def _check_modules(graph: Graph) -> None:
    problems = []
    for component in graph.components:
        try:
            found = importlib.util.find_spec(component.module)
        except (ImportError, ValueError):
            found = None
        if found is None:
            last = component.module.rpartition(".")[2]
            close = nearest(last, _siblings(component.module))
            parent = component.module.rpartition(".")[0]
            hint = f"; did you mean {f'{parent}.{close}'.lstrip('.')}" if close else ""
            problems.append(f"{component.name}: there is no module {component.module}{hint}")
    if problems:
        raise GraphError(problems)
