"""Writes `components/src/dynamo/_core.pyi` from the built extension.

    python3 lib/bindings/python/codegen/stubs.py [--check]

Names, signatures and docstrings are the extension's; types are the table of `table.py`'s. `--check`
writes nothing and ends with status 1 if the file is not what would be written.
"""

import asyncio
import importlib.util
import inspect
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).resolve().parent
STUB = HERE.parents[3] / "components/src/dynamo/_core.pyi"

HEADER = '''\
"""The extension of Dynamo: types for editors and mypy.

Made by `lib/bindings/python/codegen/stubs.py` from the built extension; do not edit it.
"""

from asyncio import AbstractEventLoop, Future
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from os import PathLike
from typing import Any, ClassVar, final, type_check_only

__version__: str
'''

#: Members that say nothing of a class's own.
_PLAIN = {"__doc__", "__module__", "__new__", "__repr__", "__hash__", "__lt__", "__le__", "__gt__"}
_PLAIN |= {"__ge__", "__eq__", "__ne__", "__int__", "__ror__", "__weakref__", "__dict__"}


def _table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dynamo_stub_table", HERE / "table.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Generator:
    """One run."""

    def __init__(self) -> None:
        from dynamo import _core

        table = _table()
        self.core = _core
        self.types: dict[str, dict[str, str]] = table.TYPES
        self.settable: set[str] = table.SETTABLE
        self.used: set[str] = set()

    def text(self) -> str:
        """The whole file."""
        public = {name: getattr(self.core, name) for name in dir(self.core) if name[0] != "_"}
        functions = {name: it for name, it in public.items() if not isinstance(it, type)}
        classes = {name: it for name, it in public.items() if isinstance(it, type)}
        hidden = {it.__name__: it for it in asyncio.run(_hidden()) if it.__name__ not in classes}
        parts = [HEADER]
        parts += [self.function(name, it) for name, it in functions.items()]
        everything = {**classes, **hidden}
        for name in sorted(everything, key=lambda it: (_depth(everything[it]), it)):
            parts.append(self.class_(everything[name], is_hidden=name in hidden))
        if stale := sorted(set(self.types) - self.used):
            raise SystemExit(f"error: table.py names what does not exist: {', '.join(stale)}")
        return "\n".join(parts)

    def function(self, name: str, function: Any) -> str:
        return "def " + self.signature(name, name, function, indent="") + self.doc(function, "    ")

    def signature(self, name: str, key: str, function: Any, indent: str) -> str:
        self.used.add(key)
        types = self.types.get(key, {})
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError):
            text = "self, *args: Any, **kwargs: Any" if indent else "*args: Any, **kwargs: Any"
            return f"{name}({text}) -> {types.get('return', 'Any')}:\n"
        words: list[str] = []
        is_keyword_only = False
        for it in parameters:
            if it.kind is inspect.Parameter.KEYWORD_ONLY and not is_keyword_only:
                is_keyword_only = True
                words.append("*")
            words.append(_parameter(it, types))
        lines = ", ".join(words)
        returned = types.get("return", "None" if name == "__init__" else "Any")
        text = f"{name}({lines}) -> {returned}:\n"
        if len(indent) + 4 + len(text) > 100:
            inner = "".join(f"{indent}    {word},\n" for word in words)
            text = f"{name}(\n{inner}{indent}) -> {returned}:\n"
        return text

    def class_(self, class_: type, is_hidden: bool) -> str:
        name = class_.__name__
        bases = [it.__name__ for it in class_.__bases__ if it is not object]
        text = "@type_check_only\n" if is_hidden else ""
        text += "" if issubclass(class_, BaseException) else "@final\n"
        text += f"class {name}{f'({bases[0]})' if bases else ''}:\n"
        text += self.doc(class_, "    ", is_body=False)
        if name == "DynamoException":
            text += "    code: str\n"
        members = dict(sorted(vars(class_).items()))
        constants = {key: it for key, it in members.items() if isinstance(it, class_)}
        text += "".join(f"    {key}: ClassVar[{name}]\n" for key in constants)
        if class_.__text_signature__ is not None and not issubclass(class_, BaseException):
            text += "\n    def " + self.init(name, class_)
        for key, member in members.items():
            if key in _PLAIN or key in constants:
                continue
            text += self.member(name, key, member)
        return text if text.rstrip().endswith('"""') or ":" in text else text + "    ...\n"

    def init(self, name: str, class_: type) -> str:
        key = f"{name}.__init__"
        self.used.add(key)
        types = self.types.get(key, {})
        words, is_keyword_only = ["self"], False
        for it in inspect.signature(class_).parameters.values():
            if it.kind is inspect.Parameter.KEYWORD_ONLY and not is_keyword_only:
                is_keyword_only = True
                words.append("*")
            words.append(_parameter(it, types))
        line = f"__init__({', '.join(words)}) -> None: ...\n"
        if len(line) + 8 > 100:
            inner = "".join(f"        {word},\n" for word in words)
            line = f"__init__(\n{inner}    ) -> None: ...\n"
        return line

    def member(self, class_name: str, name: str, member: Any) -> str:
        key = f"{class_name}.{name}"
        if inspect.isgetsetdescriptor(member):
            self.used.add(key)
            kind = self.types.get(key, {}).get("return", "Any")
            text = f"\n    @property\n    def {name}(self) -> {kind}:\n" + self.doc(member, " " * 8)
            if class_name in self.settable:
                text += f"    @{name}.setter\n    def {name}(self, value: {kind}) -> None: ...\n"
            return text
        if not callable(member):
            return ""
        signature = self.signature(name, key, member, "    ")
        return "\n    def " + signature + self.doc(member, " " * 8)

    def doc(self, thing: Any, indent: str, is_body: bool = True) -> str:
        doc = inspect.cleandoc(thing.__doc__ or "").strip()
        has_own = doc and not doc.startswith(("Return self", "str(object", "Get an item"))
        if not has_own:
            return f"{indent}...\n" if is_body else ""
        paragraphs = doc.replace("\\", "\\\\").split("\n\n")
        wrapped = ["\n".join(textwrap.wrap(it, 96 - len(indent))) for it in paragraphs]
        lines = "\n\n".join(wrapped).split("\n")
        if len(lines) == 1:
            return f'{indent}"""{lines[0]}"""\n'
        body = "".join(f"{indent}{line}\n" if line else "\n" for line in lines[1:])
        return f'{indent}"""{lines[0]}\n{body}{indent}"""\n'


def _parameter(it: inspect.Parameter, types: dict[str, str]) -> str:
    if it.name == "self" or it.name == "$self":
        return "self"
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    text = f"{stars.get(it.kind, '')}{it.name}: {types.get(it.name, 'Any')}"
    if it.default is not inspect.Parameter.empty:
        text += f" = {it.default!r}" if it.default is not ... else " = ..."
    return text


def _depth(class_: type) -> int:
    """Bases before what is derived from them."""
    return len(class_.__mro__)


async def _hidden() -> list[type]:
    """Classes that the module does not name, because nobody makes them by hand."""
    from dynamo._core import DistributedRuntime

    loop = asyncio.get_running_loop()
    runtime = DistributedRuntime(
        loop, arguments=["--discovery-backend", "mem", "--log-level", "off"]
    )
    try:
        namespace = runtime.namespace("stubs")
        component = namespace.component("stubs")
        endpoint = component.endpoint("stubs")

        async def handler(request: Any) -> Any:
            return request

        serving = asyncio.ensure_future(endpoint.serve_endpoint(handler))
        client = await endpoint.client()
        await client.wait_for_instances(30)
        stream = await client.generate("x")
        item = await stream.__anext__()
        await endpoint.shutdown()
        await serving
        return [type(it) for it in (namespace, component, stream, item)]
    finally:
        runtime.shutdown()


def main() -> int:
    """Writes the file, or compares it."""
    text = Generator().text()
    if "--check" not in sys.argv[1:]:
        STUB.write_text(text)
        return 0
    if STUB.read_text() == text:
        return 0
    print(
        f"error: {STUB.name} is stale; run python3 lib/bindings/python/codegen/stubs.py",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    # The package of this checkout, whichever else is installed.
    sys.path.insert(0, str(STUB.parents[1]))
    sys.exit(main())
