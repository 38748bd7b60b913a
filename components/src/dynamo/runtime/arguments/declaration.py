"""What is declared about an option, and how the texts that sources give become its value.

Three rules hold in every source, as in the `dynamo` command:

- an optional value that is empty or reads `none` is unset
- empty items of a list are dropped, so that an empty text is an empty list
- a value that cannot be understood is an error, never a default
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from dynamo.runtime.arguments import kinds
from dynamo.runtime.arguments.kinds import BadValue, Kind

#: What leaves an optional value unset, in any case.
_UNSET = "none"

#: What a source says of an option: nothing, a text, or several.
Raw = None | str | list[str]


class Shape(Enum):
    """How many values an option holds."""

    ONE = "one"
    OPTIONAL = "optional"
    MANY = "many"


@dataclass(frozen=True)
class Option:
    """One option, declared once.

    Attributes:
        key: its name in files, and the attribute that holds its value.
        flag: its name on command lines.
        flags: every flag that sets it.
        group: the table that it stands in.
        env: variables that set it; of several the first one that is set counts.
        min: smallest value, in the option's own kind.
        max: largest value.
        is_worker: the extension declares it, and `DistributedRuntime` takes it.
    """

    key: str
    flag: str
    flags: tuple[str, ...]
    group: str
    kind: Kind
    shape: Shape = Shape.ONE
    default: Any = None
    env: tuple[str, ...] = ()
    min: Any = None
    max: Any = None
    required: bool = False
    help: str = ""
    is_worker: bool = field(default=False, compare=False)

    @property
    def is_secret(self) -> bool:
        """Whether its value is never shown."""
        return self.kind is kinds.SECRET

    def read(self, raw: Raw) -> Any:
        """The value that a source gives.

        Raises:
            BadValue: it is none.
        """
        if self.shape is Shape.MANY:
            texts = raw if isinstance(raw, list) else [raw] if raw is not None else []
            return [self._item(text) for text in texts if text]
        if isinstance(raw, list):
            raise BadValue(f"is a list, one value is expected: {self.kind.form}")
        if self.shape is Shape.OPTIONAL and (raw is None or raw.lower() in ("", _UNSET)):
            return None
        if raw is None:
            raise BadValue(
                f"is no value; give {self.kind.form}, or leave the option out to use its default"
            )
        return self._within(self.kind.read(raw))

    def _item(self, text: str) -> Any:
        try:
            return self._within(self.kind.read(text))
        except BadValue as error:
            item = "an item" if self.is_secret else f'an item "{text}"'
            raise BadValue(f"has {item} that {error}") from None

    def _within(self, value: Any) -> Any:
        too_small = self.min is not None and value < self.min
        if too_small or (self.max is not None and value > self.max):
            raise BadValue(f"is out of bounds, it must be {self.bounds}")
        return value

    @property
    def bounds(self) -> str:
        """`from 1 to 10`, `at least 1`, `at most 10`, or nothing."""
        show = self.kind.show
        if self.min is not None and self.max is not None:
            return f"from {show(self.min)} to {show(self.max)}"
        if self.min is not None:
            return f"at least {show(self.min)}"
        return f"at most {show(self.max)}" if self.max is not None else ""

    def show(self, value: Any) -> str | list[str]:
        """The value as texts for people."""
        if self.shape is Shape.MANY:
            return [self.kind.show(item) for item in value or []]
        return _UNSET if value is None else self.kind.show(value)

    @property
    def ways(self) -> str:
        """Every way to give it."""
        ways = [f"flag {self.flag}" if self.flag.startswith("-") else self.flag]
        ways += [f"env {name}" for name in self.env]
        ways.append(f"key {self.key} of the configuration file")
        return " or ".join(ways)


def names(options: Iterable[Option]) -> list[str]:
    """Every name of these options in files and on command lines."""
    found: list[str] = []
    for option in options:
        found += [option.key, *(flag.lstrip("-") for flag in option.flags if flag[:2] == "--")]
    return found


def of_extension(group: str, declared: dict[str, Any]) -> Option:
    """An option as the extension describes it."""
    if declared["choices"]:
        words = tuple(it["name"] for it in declared["choices"])
        aliases = {alias: it["name"] for it in declared["choices"] for alias in it["aliases"]}
        kind = kinds.choice(words, aliases)
    else:
        kind = kinds.BY_NAME[declared["type"]]
    shape = (
        Shape.MANY if declared["list"] else Shape.OPTIONAL if declared["optional"] else Shape.ONE
    )

    def value(given: Any) -> Any:
        if given is None or kind.is_bare:
            return given
        if isinstance(given, list):
            return [kind.read(text) for text in given]
        return kind.read(given)

    short = [f"-{declared['short']}"] if declared["short"] else []
    more = [*short, *declared["aliases"], *declared["deprecated_aliases"]]
    return Option(
        key=declared["key"],
        flag=declared["flag"],
        flags=(declared["flag"], *more),
        group=group,
        kind=kind,
        shape=shape,
        default=value(declared["default"]),
        env=tuple(declared["env"]),
        min=value(declared["min"]),
        max=value(declared["max"]),
        required=declared["required"],
        help=declared["doc"],
        is_worker=True,
    )
