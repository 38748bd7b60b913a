"""What values look like as text: the same forms as those of the `dynamo` command.

A value that cannot be understood is an error that says what is expected, never a default.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any


class BadValue(ValueError):
    """Why a value was refused. Completes a sentence that starts with the value."""


@dataclass(frozen=True)
class Kind:
    """A kind of values.

    Attributes:
        name: as references and messages call it.
        form: in words, with an article: completes "is not ...".
        example: a text of that form; empty where the form says it all.
        parse: reads a text; raises `ValueError`, whose message is a hint or empty.
        show: the canonical text of a value.
        is_bare: stands without quotes in TOML.
    """

    name: str
    form: str
    example: str
    parse: Callable[[str], Any]
    show: Callable[[Any], str] = str
    is_bare: bool = False

    def read(self, text: str) -> Any:
        """The value that a text means.

        Raises:
            BadValue: none.
        """
        try:
            return self.parse(text)
        except ValueError as error:
            example = f", such as {self.example}" if self.example else ""
            hint = f"; {error}" if str(error) else ""
            raise BadValue(f"is not {self.form}{example}{hint}") from None


_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")


def _boolean(text: str) -> bool:
    word = text.strip().lower()
    if word not in _TRUE + _FALSE:
        raise ValueError
    return word in _TRUE


def _without_separators(text: str) -> str:
    """Underscores between digits are for readers, as in TOML; Python takes them as well."""
    text = text.strip()
    if not text.isascii():
        raise ValueError
    return text


def _integer(text: str) -> int:
    try:
        return int(_without_separators(text))
    except ValueError:
        raise ValueError from None


def _number(text: str) -> float:
    try:
        number = float(_without_separators(text))
    except ValueError:
        raise ValueError from None
    if not math.isfinite(number):
        raise ValueError
    return number


def _path(text: str) -> Path:
    if not text:
        raise ValueError("write . for the current folder")
    return Path(text)


_MASK = "<set>"


def _secret(text: str) -> str:
    if text == _MASK:
        raise ValueError(f"{_MASK} is printed in the place of a secret, write the secret there")
    if not text:
        raise ValueError
    return text


_NANOSECONDS = {
    "d": 86_400_000_000_000,
    "h": 3_600_000_000_000,
    "m": 60_000_000_000,
    "s": 1_000_000_000,
    "ms": 1_000_000,
    "us": 1_000,
    "ns": 1,
}
_DURATION_PART = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-z]+)")
_PLAIN_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")


def _duration(text: str) -> timedelta:
    text = text.strip()
    if _PLAIN_NUMBER.fullmatch(text):
        raise ValueError(f"add a unit: {text}s for seconds, {text}ms for milliseconds")
    units = iter(_NANOSECONDS.items())
    total, at = 0.0, 0
    while at < len(text):
        part = _DURATION_PART.match(text, at)
        # The iterator goes on where it stopped: a unit can neither repeat nor grow.
        found = part and next((size for unit, size in units if unit == part[2]), None)
        if part is None or found is None:
            raise ValueError
        total += float(part[1]) * found
        at = part.end()
    if not text:
        raise ValueError
    try:
        return timedelta(microseconds=total / 1_000)
    except OverflowError:
        raise ValueError from None


def show_duration(value: timedelta) -> str:
    """In the largest units: `1m30s`."""
    rest = round(value / timedelta(microseconds=1)) * 1_000
    text = ""
    for unit, size in _NANOSECONDS.items():
        if rest >= size:
            text += f"{rest // size}{unit}"
            rest %= size
    return text or "0s"


_SIZES = {
    "TiB": 1024**4,
    "GiB": 1024**3,
    "MiB": 1024**2,
    "KiB": 1024,
    "TB": 1000**4,
    "GB": 1000**3,
    "MB": 1000**2,
    "KB": 1000,
    "B": 1,
}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)")


def _size(text: str) -> int:
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError
    number, unit = match[1], match[2]
    if unit and unit.upper() in "KMGT":
        letter = unit.upper()
        raise ValueError(
            f"write {number}{letter}iB for powers of 1024 or {number}{letter}B for powers of 1000"
        )
    # Kubernetes writes Ki, Mi, Gi and Ti.
    names = {name.lower(): size for name, size in _SIZES.items()}
    names.update({name[:2].lower(): size for name, size in _SIZES.items() if len(name) == 3})
    size = 1 if not unit else names.get(unit.lower())
    if size is None or not (float(number) * size).is_integer():
        raise ValueError
    return int(float(number) * size) if "." in number else int(number) * size


def _show_size(value: int) -> str:
    name, size = next(
        ((name, size) for name, size in _SIZES.items() if value >= size and value % size == 0),
        ("B", 1),
    )
    return f"{value // size}{name}"


BOOLEAN = Kind("boolean", "true or false", "", _boolean, lambda it: str(it).lower(), is_bare=True)
INTEGER = Kind("integer", "an integer", "8", _integer, is_bare=True)
NUMBER = Kind("number", "a finite number", "0.5", _number, repr, is_bare=True)
TEXT = Kind("text", "a text", "name", str)
PATH = Kind("path", "a path", "./models", _path)
DURATION = Kind("duration", "a duration", "30s, 500ms or 1m30s", _duration, show_duration)
SIZE = Kind("size", "a size in bytes", "64KiB, 45MB or 1024", _size, _show_size)
#: Never shown: not in messages, not by `--print-config`.
SECRET = Kind("secret", "a secret text that is not empty", "", _secret, lambda _: _MASK)

#: By the names that the extension gives them.
BY_NAME = {
    kind.name: kind for kind in (BOOLEAN, INTEGER, NUMBER, TEXT, PATH, DURATION, SIZE, SECRET)
}

_BY_TYPE: dict[Any, Kind] = {
    bool: BOOLEAN,
    int: INTEGER,
    float: NUMBER,
    str: TEXT,
    Path: PATH,
    timedelta: DURATION,
}


def choice(words: tuple[str, ...], aliases: dict[str, str] | None = None) -> Kind:
    """One of some words, compared without regard to case; `_` counts as `-`."""

    def fold(word: str) -> str:
        return word.strip().lower().replace("_", "-")

    meant = {fold(word): word for word in words}
    meant.update({fold(alias): word for alias, word in (aliases or {}).items()})

    def parse(text: str) -> str:
        from dynamo.runtime.arguments.nearest import nearest

        if (found := meant.get(fold(text))) is not None:
            return found
        close = nearest(text, words)
        raise ValueError(f"did you mean {close}" if close else "")

    return Kind("choice", "one of " + ", ".join(words), "", parse)


def of_type(given: Any) -> Kind:
    """The kind of what is given to argparse as `type`: a type, one of these kinds, or a function
    that reads a text and raises `ValueError` or `ArgumentTypeError`."""
    if given is None:
        return TEXT
    if isinstance(given, Kind):
        return given
    if (kind := _BY_TYPE.get(given)) is not None:
        return kind
    return _of_function(given)


def _of_function(function: Callable[[str], Any]) -> Kind:
    from argparse import ArgumentTypeError

    name = getattr(function, "__name__", "value").strip("_")

    def parse(text: str) -> Any:
        try:
            return function(text)
        except (ArgumentTypeError, TypeError, ValueError) as error:
            raise ValueError(str(error)) from None

    return Kind(name, f"a valid {name}", "", parse)
