"""Between argparse's actions and our options: what is declared stands on the action itself."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from dynamo.runtime.arguments import kinds
from dynamo.runtime.arguments.declaration import Option, Shape
from dynamo.runtime.arguments.kinds import BadValue, Kind

#: The attribute of an action that holds what argparse knows nothing of.
_ATTRIBUTE = "dynamo_declared"


@dataclass(frozen=True)
class Declared:
    """What `add_argument` takes besides argparse's own."""

    env: tuple[str, ...] = ()
    min: Any = None
    max: Any = None
    secret: bool = False
    #: An option of the extension's, which says all of this by itself.
    option: Option | None = None


class Switch(argparse.Action):
    """`--x` and `--no-x`."""

    def __init__(self, option_strings: Sequence[str], dest: str, **more: Any) -> None:
        off = [f"--no-{flag[2:]}" for flag in option_strings if flag.startswith("--")]
        self.on = frozenset(option_strings)
        super().__init__([*option_strings, *off], dest, nargs=0, **more)

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, option_string in self.on)

    def format_usage(self) -> str:
        """The flag that turns it on stands for both."""
        return self.option_strings[0]


class Declares:
    """Adds `env`, `min`, `max` and `secret` to `add_argument`."""

    def add_argument(
        self,
        *flags: Any,
        env: str | Sequence[str] = (),
        min: Any = None,
        max: Any = None,
        secret: bool = False,
        **more: Any,
    ) -> argparse.Action:
        """Declares an option.

        Args:
            flags: as argparse takes them.
            env: environment variables that set it; of several the first one that is set counts.
            min: smallest value.
            max: largest value.
            secret: its value is never shown.
            more: what argparse takes. `type` may be `int`, `float`, `str`, `bool`, `pathlib.Path`,
                `datetime.timedelta` (a duration such as `30s`), a kind of
                `dynamo.runtime.arguments.kinds`, or a function that reads a text.
        """
        names = (env,) if isinstance(env, str) else tuple(env)
        declared = Declared(names, min, max, secret)
        if more.get("type") is bool and "action" not in more:
            del more["type"]
            more["action"] = Switch
        if isinstance(more.get("help"), str) and any(
            isinstance(it, str) and it[:1] == "-" for it in flags
        ):
            more["help"] += _facts(declared, more)
        given = more.get("type")
        if given is timedelta or isinstance(given, Kind):
            # argparse calls what it is given; reading is ours.
            kind = kinds.of_type(given)
            more["type"] = _Reader(kind)
            more.setdefault("metavar", kind.name.upper())
        action: argparse.Action = super().add_argument(*flags, **more)  # type: ignore[misc]
        setattr(action, _ATTRIBUTE, declared)
        return action

    def add_option(self, option: Option) -> argparse.Action:
        """Adds an option that is declared elsewhere."""
        more: dict[str, Any] = {"action": Switch} if option.kind is kinds.BOOLEAN else {}
        if option.shape is Shape.MANY:
            more["action"] = "append"
        if "action" not in more or option.shape is Shape.MANY:
            more["metavar"] = option.kind.name.upper()
        shown = option.show(option.default)
        default = ", ".join(shown) if isinstance(shown, list) else shown
        facts = [f"[{option.bounds}]"] if option.bounds else []
        facts += [f"[default: {default}]"] if default not in ("", "none") else []
        facts += [f"[env: {option.env[0]}]"] if option.env else []
        text = " ".join([option.help.replace("\n\n", " "), *facts]).replace("%", "%%")
        action: argparse.Action = super().add_argument(  # type: ignore[misc]
            *option.flags, dest=option.key, default=option.default, help=text, **more
        )
        setattr(action, _ATTRIBUTE, Declared(option=option))
        return action


class Group(Declares, argparse._ArgumentGroup):
    """A titled part of the help."""


@dataclass(frozen=True)
class _Reader:
    kind: Kind

    def __call__(self, text: str) -> Any:
        return self.kind.read(text)


def option_of(action: argparse.Action, group: str) -> Option | None:
    """The option that an action is about; `None` for those that are argparse's alone: positional
    words, help, version, actions of a component's own."""
    declared: Declared = getattr(action, _ATTRIBUTE, Declared())
    if declared.option is not None:
        return declared.option
    if not action.option_strings or action.dest == argparse.SUPPRESS:
        return None
    is_switch = isinstance(action, _SWITCHES)
    if not is_switch and not isinstance(action, _STORES):
        return None
    kind = kinds.SECRET if declared.secret else kinds.BOOLEAN if is_switch else _kind(action)
    is_many = isinstance(action, argparse._AppendAction) or action.nargs in ("+", "*")
    is_many = is_many or (isinstance(action.nargs, int) and action.nargs > 0)
    is_optional = action.default is None and not action.required
    long = [flag for flag in action.option_strings if flag.startswith("--")]
    return Option(
        key=action.dest,
        flag=(long or list(action.option_strings))[0],
        flags=tuple(action.option_strings),
        group=group,
        kind=kind,
        shape=Shape.MANY if is_many else Shape.OPTIONAL if is_optional else Shape.ONE,
        default=_default(action, kind, is_many),
        env=declared.env,
        min=declared.min,
        max=declared.max,
        required=action.required,
        help=action.help or "",
    )


#: Actions whose values are texts that an option reads.
_STORES = (argparse._StoreAction, argparse._AppendAction)
_SWITCHES = (
    Switch,
    argparse._StoreTrueAction,
    argparse._StoreFalseAction,
    argparse.BooleanOptionalAction,
)


def _kind(action: argparse.Action) -> Kind:
    given = action.type.kind if isinstance(action.type, _Reader) else action.type
    kind = kinds.of_type(given)
    if action.choices is None:
        return kind
    words = list(action.choices)
    if kind is kinds.TEXT:
        return kinds.choice(tuple(str(word) for word in words))

    def read(text: str) -> Any:
        try:
            value = kind.read(text)
        except BadValue:
            raise ValueError from None
        if value not in words:
            raise ValueError
        return value

    form = "one of " + ", ".join(kind.show(word) for word in words)
    return Kind(kind.name, form, "", read, kind.show, kind.is_bare)


def _default(action: argparse.Action, kind: Kind, is_many: bool) -> Any:
    if action.default is argparse.SUPPRESS:
        return None
    if isinstance(action.default, str) and not is_many:
        # argparse reads defaults that are texts as if they had been given.
        return kind.read(action.default)
    if is_many and action.default is None:
        return []
    return action.default


def _facts(declared: Declared, more: dict[str, Any]) -> str:
    """What the help of an option says after its text, as that of the `dynamo` command does."""
    kind, facts = kinds.of_type(more.get("type")), []
    bounds = Option("", "", (), "", kind, min=declared.min, max=declared.max).bounds
    if bounds:
        facts.append(f" [{bounds}]")
    default = more.get("default")
    is_told = "default" in more["help"] or isinstance(default, bool | list | tuple)
    if default not in (None, "", argparse.SUPPRESS) and not is_told and not declared.secret:
        facts.append(
            f" [default: {kind.show(default) if not isinstance(default, str) else default}]"
        )
    if declared.env:
        facts.append(f" [env: {declared.env[0]}]")
    return "".join(facts).replace("%", "%%")
