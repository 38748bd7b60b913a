"""Options of files and classes as the words of a command line. Pure.

What a component's options are is asked of the extension, where it declares them: then a wrong one
is told with its line. Components in Python are asked when they start: they refuse what is wrong.
"""

import json
from collections.abc import Mapping
from typing import Any

from dynamo.runtime.arguments.declaration import Option, Shape, names, of_extension
from dynamo.runtime.arguments.document import Items, Node, Scalar, Table, plain
from dynamo.runtime.arguments.kinds import BOOLEAN, BadValue
from dynamo.runtime.arguments.nearest import suggestion


class BadOption(ValueError):
    """An option that a component does not have, or a value that it cannot have."""


def declared(module: str) -> list[Option] | None:
    """The options of `python3 -m MODULE`, if the extension declares them."""
    from dynamo import _core

    package, _, command = module.rpartition(".")
    if package != "dynamo":
        return None
    try:
        groups = _core.options(command)["groups"]
    except ValueError:
        return None
    return [of_extension(group["name"], it) for group in groups for it in group["options"]]


def words(key: str, node: Node, module: str, options: list[Option] | None) -> list[str]:
    """One option as on a command line: `http_port: 8000` is `--http-port 8000`.

    True is the flag alone, False the flag with `no-`; null leaves the option out. A list is the flag
    several times where the component says that it takes that, else the flag with several values. A
    mapping is its JSON.

    Raises:
        BadOption: the component has no such option, or not with this value.
    """
    if isinstance(node, Scalar) and node.is_null:
        return []
    if options is None:
        return _plain_words(f"--{key.replace('_', '-')}", node)
    option = next((it for it in options if _is_named(it, key)), None)
    if option is None:
        hint = suggestion(key, [*names(options)]).replace("_", "-")
        raise BadOption(f"{key} is no option of {module}{hint}")
    texts = _texts(option, node)
    try:
        value = option.read(texts if option.shape is Shape.MANY else texts[0])
    except BadValue as error:
        shown = (
            "the value" if option.is_secret else json.dumps(", ".join(texts), ensure_ascii=False)
        )
        raise BadOption(f"{option.key}: {shown} {error}") from error
    if option.kind is BOOLEAN:
        return [option.flag if value else f"--no-{option.flag[2:]}"]
    return [word for text in texts for word in _pair(option.flag, text)]


def of_python(value: Any) -> Node:
    """A value of a class as if it stood in a file."""
    if isinstance(value, Mapping):
        entries = {str(key): of_python(item) for key, item in value.items()}
        return Table(0, entries, dict.fromkeys(entries, 0))
    if isinstance(value, list | tuple | set | frozenset):
        return Items(0, tuple(of_python(item) for item in value))
    if value is None:
        return Scalar(0, "null")
    if isinstance(value, bool):
        return Scalar(0, str(value).lower())
    return Scalar(0, str(value), is_plain=not isinstance(value, str))


def _is_named(option: Option, key: str) -> bool:
    key = key.replace("-", "_")
    return any(key == name.replace("-", "_") for name in names([option]))


def _texts(option: Option, node: Node) -> list[str]:
    items = node.items if isinstance(node, Items) else (node,)
    if isinstance(node, Items) and option.shape is not Shape.MANY:
        raise BadOption(f"{option.key} takes one value: {option.kind.form}")
    texts = [item.text for item in items if isinstance(item, Scalar)]
    if len(texts) < len(items):
        raise BadOption(f"{option.key} takes {option.kind.form}, not keys below it")
    return texts


def _plain_words(flag: str, node: Node) -> list[str]:
    if isinstance(node, Table):
        return [flag, json.dumps(plain(node))]
    if isinstance(node, Items):
        if all(isinstance(item, Scalar) for item in node.items):
            return [flag, *(item.text for item in node.items if isinstance(item, Scalar))]
        return [flag, json.dumps(plain(node))]
    if node.boolean is not None:
        return [flag] if node.boolean else [f"--no-{flag[2:]}"]
    return _pair(flag, node.text)


def _pair(flag: str, text: str) -> list[str]:
    """A value that looks like a flag is joined to its own."""
    return [f"{flag}={text}"] if text.startswith("-") else [flag, text]
