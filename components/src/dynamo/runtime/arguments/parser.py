"""The parser of a component's command line."""

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from dynamo.runtime.arguments import config_file, declaration, engine, kinds, layers, printing
from dynamo.runtime.arguments.actions import Declared, Declares, Group, Switch, option_of
from dynamo.runtime.arguments.declaration import Option, Raw
from dynamo.runtime.arguments.layers import ConfigFile, Source
from dynamo.runtime.arguments.nearest import suggestion

logger = logging.getLogger(__name__)

#: The exit status of a process that was started wrongly, as of the `dynamo` command.
WRONG_USAGE = 2


class Parsed(argparse.Namespace):
    """The values of all options as attributes.

    Attributes:
        sources: where each of them comes from, by their names.
        engine_words: what is the engine's own, as words for its parser.
    """

    __slots__ = ("engine_words", "sources")

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        self.sources: dict[str, Source] = {}
        self.engine_words: list[str] = []


class _Given(argparse.Namespace):
    """Remembers what a command line sets, as opposed to what argparse fills in."""

    __slots__ = ("names",)

    def __init__(self, empty: Iterable[str]) -> None:
        object.__setattr__(self, "names", set())
        self.__dict__.update(dict.fromkeys(empty))

    def __setattr__(self, name: str, value: Any) -> None:
        self.names.add(name)
        super().__setattr__(name, value)


class DynamoFlexibleArgumentParser(Declares, argparse.ArgumentParser):
    """Options from flags, `DYN_*` environment, a YAML or TOML file, and defaults, in this order.

    What argparse takes, this takes; `add_argument` knows `env`, `min`, `max` and `secret` besides.
    Spellings with `_` and `-` are the same flag. Unknown flags and keys are refused, with the
    nearest name.

    Args:
        component: the section of files that is this component's; made of `prog` if not given.
        config_file: whether there are `--config` (`-f`, `DYN_CONFIG`) and `--print-config`.
        environment: in place of the process's own.
    """

    def __init__(
        self,
        prog: str | None = None,
        *,
        component: str | None = None,
        config_file: bool = True,
        environment: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:
        self._environment = environment
        self._engine: engine.Engine | None = None
        self._worker: list[Option] = []
        self._reads_file = config_file
        more.setdefault("allow_abbrev", False)
        more.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        # A line for each of a hundred options says less than none.
        more.setdefault("usage", "%(prog)s [OPTIONS]")
        super().__init__(prog, **more)
        self.component = component or self.prog.split()[-1].removesuffix(".py").split(".")[-1]
        if config_file:
            argparse.ArgumentParser.add_argument(
                self,
                "--config",
                "-f",
                metavar="FILE",
                type=Path,
                help="Read options from a YAML or TOML file [env: DYN_CONFIG]",
            )
            argparse.ArgumentParser.add_argument(
                self,
                "--print-config",
                action="store_true",
                help="Print every option with its value and where it came from, and exit",
            )

    # -- declaring

    def add_argument_group(self, *args: Any, **more: Any) -> Group:
        """A titled part of the help; its `add_argument` takes what the parser's takes."""
        group = Group(self, *args, **more)
        self._action_groups.append(group)
        return group

    def add_runtime_arguments(self) -> None:
        """Adds the options that every worker has, as the extension declares them: discovery,
        planes, TLS, logs. `runtime_arguments` hands them on."""
        from dynamo._core import options

        for group in options()["groups"]:
            title = f"{group['name'].replace('_', ' ').replace('-', ' ')} options"
            place = self.add_argument_group(title, group["doc"])
            for declared in group["options"]:
                place.add_option(declaration.of_extension(group["name"], declared))

    def add_engine_arguments(
        self,
        parser: argparse.ArgumentParser | Callable[[], argparse.ArgumentParser],
        *,
        name: str,
        keep: Iterable[str] = (),
    ) -> None:
        """Lets flags through that are an engine's own.

        Args:
            parser: the engine's, or what makes it when it is needed.
            name: of the engine, for messages.
            keep: flags that both have and that are Dynamo's here. Any other such flag is an error
                when it is given, because nobody can know which of the two is meant.
        """
        make = parser if not isinstance(parser, argparse.ArgumentParser) else lambda: parser
        self._engine = engine.Engine(name, make, frozenset(keep))
        argparse.ArgumentParser.add_argument(
            self,
            "--engine-help",
            action="store_true",
            help=f"Print the flags that are {name}'s own, and exit",
        )

    @property
    def options(self) -> list[Option]:
        """Every option that has layers, in the order of declaration."""
        own = (option_of(action, self.component) for action in self._actions)
        found = [option for option in own if option is not None and option.key not in self._taken]
        # The component's own stand before the runtime's.
        return sorted(found, key=lambda option: option.is_worker)

    @property
    def _taken(self) -> frozenset[str]:
        return frozenset(["config", "print_config", "engine_help"])

    # -- parsing

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        """The values of all options, a `Parsed`. Ends the process with status 2 if they are wrong."""
        parsed, _ = self._parse(args, namespace, strictly=True)
        return parsed

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """The same, and the words that mean nothing here."""
        return self._parse(args, namespace, strictly=False)

    def _parse(
        self, args: Sequence[str] | None, namespace: Any, strictly: bool
    ) -> tuple[Any, list[str]]:
        words = list(sys.argv[1:] if args is None else args)
        given, extras = self._flags(words)
        if self._engine and getattr(given, "engine_help", False):
            self._engine.parser.print_help()
            self.exit()
        file = self._file(given) if self._reads_file else None
        options = self.options
        flags = {it.key: _raw(given, it.key) for it in options if it.key in given.names}
        environment = os.environ if self._environment is None else self._environment
        keys = self._engine.keys if self._engine else None
        resolved = layers.resolve(options, self.component, flags, environment, file, keys)
        problems = resolved.problems
        problems += self._engine_problems(words, extras)
        if strictly and self._engine is None:
            problems += self._unknown(extras)
        if problems:
            self.error("\n".join(problems))
        for name, meant in layers.unknown_variables(options, environment):
            logger.warning("unknown environment variable %s; did you mean %s", name, meant)
        parsed = Parsed() if namespace is None else namespace
        parsed.__dict__.update({**self._defaults, **vars(given), **resolved.values})
        for name in self._taken:
            parsed.__dict__.pop(name, None)
        from_file = self._from_file(resolved, extras)
        if isinstance(parsed, Parsed):
            parsed.sources = resolved.sources
            if self._engine:
                parsed.engine_words = [word for it, _ in from_file for word in it] + extras
        if getattr(given, "print_config", False):
            self._print(options, resolved, from_file, extras)
        return parsed, [] if self._engine else extras

    def _flags(self, words: list[str]) -> tuple[_Given, list[str]]:
        """What flags say, as texts; and the words that are not ours."""
        own, after = _part(words) if self._engine else (words, [])
        layered = [action for action in self._actions if option_of(action, "") is not None]
        given = _Given(action.dest for action in layered)
        required = [action for action in layered if action.required]
        try:
            for action in required:
                # Another source may give it.
                action.required = False
            _, extras = super().parse_known_args([self._spelled(it) for it in own], given)
        finally:
            for action in required:
                action.required = True
        return given, [*extras, *after]

    def _spelled(self, word: str) -> str:
        """A word with its flag as it was declared: `--block_size=16` is `--block-size=16`."""
        if not word.startswith("--") or word == "--":
            return word
        flag, equals, value = word.partition("=")
        known = self._option_string_actions
        if flag not in known:
            flag = next(
                (it for it in known if it.startswith("--") and _same(it, flag)),
                (self._engine.spelling(flag) if self._engine else None) or flag,
            )
        action = known.get(flag)
        if equals and isinstance(action, Switch | argparse.BooleanOptionalAction):
            return self._switched(flag, value, action)
        return f"{flag}{equals}{value}"

    def _switched(self, flag: str, value: str, action: argparse.Action) -> str:
        try:
            is_on = kinds.BOOLEAN.read(value)
        except kinds.BadValue as error:
            self.error(f'{action.dest} (flag {flag}): "{value}" {error}')
        is_off_flag = flag.startswith("--no-") and flag in action.option_strings[1:]
        name = flag.removeprefix("--no-") if is_off_flag else flag.removeprefix("--")
        return f"--{name}" if is_on != is_off_flag else f"--no-{name}"

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        # Read when it is known which source wins, so that all sources give the same messages.
        if option_of(action, "") is not None:
            return arg_string
        return super()._get_value(action, arg_string)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if option_of(action, "") is None:
            super()._check_value(action, value)

    def _file(self, given: argparse.Namespace) -> ConfigFile | None:
        environment = os.environ if self._environment is None else self._environment
        path = getattr(given, "config", None) or environment.get("DYN_CONFIG")
        if not path:
            return None
        try:
            return ConfigFile(str(path), config_file.read(Path(path)))
        except config_file.FileTrouble as error:
            self.error(str(error))

    # -- what is not ours

    def _unknown(self, extras: Sequence[str]) -> list[str]:
        known = [flag for flag in self._option_string_actions if flag.startswith("--")]
        if self._engine:
            known += [flag for flag in self._engine.flags if flag.startswith("--")]
        problems = []
        is_value = False
        for word in extras:
            flag = word.partition("=")[0]
            if word.startswith("--"):
                hint = suggestion(flag, known) or "; --help shows those there are"
                problems.append(f"unknown flag {flag}{hint}")
            elif word.startswith("-") and len(word) > 1:
                problems.append(f"unknown flag {word}")
            elif not is_value:
                problems.append(f'unexpected word "{word}"; options begin with --')
            # What follows an unknown flag may be its value.
            is_value = word.startswith("-") and "=" not in word
        return problems

    def _engine_problems(self, words: Sequence[str], extras: Sequence[str]) -> list[str]:
        if self._engine is None:
            return []
        before, _ = _part(extras)
        flags = [word.partition("=")[0] for word in before if word.startswith("--")]
        problems = self._unknown([flag for flag in flags if self._engine.spelling(flag) is None])
        undecided = self._engine.undecided(self._option_string_actions)
        for word in _part(words)[0]:
            flag = self._spelled(word).partition("=")[0]
            if flag in undecided:
                name, key = self._engine.name, flag.lstrip("-").replace("-", "_")
                problems.append(
                    f"{flag} is an option of Dynamo and of {name}, so that it is not clear which is "
                    f"meant; give Dynamo's by its environment variable or below "
                    f'"{self.component}" in a configuration file, and {name}\'s behind -- '
                    f'or as {key} below "{layers.ENGINE_SECTION}"'
                )
        return problems

    def _from_file(
        self, resolved: layers.Resolved, extras: Sequence[str]
    ) -> list[tuple[list[str], Source]]:
        if self._engine is None:
            return []
        values = self._engine.without(resolved.engine, extras)
        return [(self._engine.words_of(value), value.source) for value in values]

    def _print(
        self,
        options: Sequence[Option],
        resolved: layers.Resolved,
        from_file: list[tuple[list[str], Source]],
        extras: list[str],
    ) -> NoReturn:
        text = printing.effective(options, resolved.values, resolved.sources)
        if self._engine:
            shown = engine.shown(from_file)
            if extras:
                shown.append((shlex.join(extras), Source("flag")))
            text += printing.engine(self._engine.name, shown)
        sys.stdout.write(text)
        self.exit()

    # -- what comes of it

    def runtime_arguments(self, parsed: Parsed) -> list[str]:
        """Words for `DistributedRuntime(arguments=...)`: the runtime's options that were given by
        flag or file. What the environment says the runtime reads by itself."""
        words: list[str] = []
        for option in self.options:
            source = parsed.sources.get(option.key, layers.DEFAULT)
            if option.is_worker and source.kind in ("flag", "file"):
                words += _words(option, getattr(parsed, option.key))
        return words

    def engine_arguments(self, parsed: Parsed, more: Sequence[str] = ()) -> argparse.Namespace:
        """What the engine's own parser makes of its words. Ends the process with status 2 and the
        engine's own message if it refuses them.

        Args:
            more: words that the component adds, before what the user gave.
        """
        if self._engine is None:
            raise TypeError("add_engine_arguments was not called: there is no engine")
        try:
            return self._engine.parse([*more, *parsed.engine_words])
        except engine.EngineRefuses as error:
            self.error(f"{self._engine.name}: {error}")

    def error(self, message: str) -> NoReturn:
        """Says what is wrong, and ends the process."""
        message = message.removeprefix("argument ")
        self.exit(WRONG_USAGE, f"error: {message}\n")


def _raw(given: _Given, key: str) -> Raw:
    value = getattr(given, key)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return [text for item in value for text in (item if isinstance(item, list) else [item])]
    return value if value is None else str(value)


def _words(option: Option, value: Any) -> list[str]:
    """An option as on a command line."""
    if option.kind is kinds.BOOLEAN:
        return [option.flag if value else f"--no-{option.flag[2:]}"]
    if option.shape is declaration.Shape.MANY:
        return [word for item in value for word in (option.flag, option.kind.show(item))]
    if option.is_secret and value is not None:
        return [option.flag, value]
    shown = option.show(value)
    return [f"{option.flag}={shown}"] if isinstance(shown, str) else []


def _part(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """What stands before `--`, and what behind it."""
    words = list(words)
    at = words.index("--") if "--" in words else len(words)
    return words[:at], words[at + 1 :]


def _same(one: str, other: str) -> bool:
    return one.replace("_", "-") == other.replace("_", "-")


__all__ = ["Declared", "DynamoFlexibleArgumentParser", "Parsed"]
