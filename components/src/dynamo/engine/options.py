"""Options that all engine workers take: where they are, what they serve, and how.

A worker's command line has three kinds of words: these, the runtime's, and the engine's. What is
neither of the first two goes to the engine's own parser, which knows best; so does everything
after `--`.
"""

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dynamo.engine import engine_words, runtime_flags
from dynamo.engine.modes import Mode

#: What stands before an endpoint's path.
_SCHEME = "dyn://"

DEFAULT_NAMESPACE = "dynamo"
DEFAULT_ENDPOINT = "generate"


class WrongUsage(ValueError):
    """The command line or the environment is wrong; the message says where and how to mend it."""


@dataclass(frozen=True)
class Options:
    """What a worker was started with.

    Attributes:
        model_path: a folder or a Hugging Face id.
        model_name: the name that clients ask for; made of the path if not given.
        kv_events: whether the engine's KV events are passed on; `None` is where it can be done.
        health_check_payload: a request for the canary in place of the engine's own.
        runtime: words for `DistributedRuntime`.
        engine: words for the engine's own parser.
    """

    namespace: str
    component: str
    endpoint: str
    model_path: str
    model_name: str | None
    mode: Mode
    kv_events: bool | None
    custom_jinja_template: str | None
    health_check_payload: dict[str, Any] | None
    runtime: list[str] = field(default_factory=list)
    engine: list[str] = field(default_factory=list)

    def log_level(self) -> str | None:
        """What `--log-level` says, which is the runtime's."""
        return runtime_flags.value_of(self.runtime, "--log-level")


@dataclass(frozen=True)
class Spelling:
    """How an engine spells what all workers take.

    Attributes:
        name: of the engine, as in `DYN_VLLM_...`.
        flags: from our flag (without dashes) to the engine's; a flag of two parts becomes two, of
            which the second is what stands after the last colon.
    """

    name: str
    flags: Mapping[str, str | tuple[str, str]]

    def words(self, flag: str, value: str) -> list[str]:
        """A flag in the engine's words.

        Raises:
            WrongUsage: the engine has none for it.
        """
        own = self.flags.get(flag)
        if own is None:
            raise WrongUsage(f"--{flag} is not for {self.name}{_instead(flag)}")
        if isinstance(own, str):
            return [f"--{own}", value]
        first, colon, second = value.rpartition(":")
        if not colon:
            raise WrongUsage(f"--{flag} {value} has no port; write HOST:PORT")
        return [f"--{own[0]}", first, f"--{own[1]}", second]

    def shown(self, flag: str) -> str:
        """What `--help` says of where a flag goes."""
        own = self.flags.get(flag)
        if own is None:
            return f"not for {self.name}"
        names = [own] if isinstance(own, str) else own
        return "the engine's " + ", ".join(f"--{name}" for name in names)


#: Flags of `dynamo run` for any engine that go to the engine under its own name.
PASSED_ON = {
    "tensor-parallel-size": "GPUs that share each layer",
    "context-length": "longest sequence, prompt and answer together, in tokens",
    "kv-cache-block-size": "tokens in a KV block",
    "num-nodes": "machines that this worker's engine runs on",
    "node-rank": "which of them this is, from 0",
    "leader-addr": "HOST:PORT of the first of them",
    "base-gpu-id": "the first GPU to use",
}


def parser(spelling: Spelling, note: str = "") -> argparse.ArgumentParser:
    """The parser of what all workers take.

    Args:
        note: what `--help` says at its end.
    """
    package = f"dynamo.{spelling.name}"
    made = argparse.ArgumentParser(
        prog=f"python3 -m {package}",
        description=f"Serves a model with {spelling.name}.",
        epilog=note,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--model-path", "--model", metavar="MODEL", help="folder or Hugging Face id (DYN_MODEL_PATH)")
    add(
        "--model-name",
        "--served-model-name",
        metavar="NAME",
        help="name that clients ask for; made of the path if not given (DYN_MODEL_NAME)",
    )
    add("--namespace", help=f"deployment (DYN_NAMESPACE, {DEFAULT_NAMESPACE})")
    add("--component", help="kind of worker (DYN_COMPONENT; backend, for prefill workers prefill)")
    add("--endpoint", help="where it is served: dyn://NS.COMP.EP or a name (DYN_ENDPOINT, generate)")
    add(
        "--disaggregation-mode",
        metavar="{agg,prefill,decode}",
        help=f"what the worker does of a request (DYN_{spelling.name.upper()}_DISAGGREGATION_MODE)",
    )
    add("--is-prefill-worker", action="store_true", help="the same as --disaggregation-mode prefill")
    add("--is-decode-worker", action="store_true", help="the same as --disaggregation-mode decode")
    add(
        "--kv-events",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="pass on the engine's KV events, by which prompts find what is cached (DYN_KV_EVENTS)",
    )
    add("--custom-jinja-template", metavar="FILE", help="chat template in place of the model's own")
    add(
        "--health-check-payload",
        metavar="JSON|@FILE",
        help="request that shows whether the engine works (DYN_HEALTH_CHECK_PAYLOAD)",
    )
    add("--extra-engine-args", metavar="FILE", help="JSON or YAML file with more of the engine's flags")
    for flag, text in PASSED_ON.items():
        add(f"--{flag}", metavar="VALUE", help=f"{text} ({spelling.shown(flag)})")
    return made


def parse(
    spelling: Spelling,
    words: Sequence[str],
    environment: Mapping[str, str] | None = None,
    note: str = "",
) -> Options:
    """Reads a command line; flags win over the environment.

    Raises:
        WrongUsage: it cannot be understood.
    """
    environment = os.environ if environment is None else environment
    before, after = _part(list(words))
    runtime, rest = runtime_flags.take(before)
    if rest and rest[0].startswith(_SCHEME):
        rest[:1] = ["--endpoint", rest[0]]
    args, engine = parser(spelling, note).parse_known_args(rest)
    engine = [*_of_file(args.extra_engine_args), *_passed_on(spelling, args, environment), *engine]
    engine += after

    def value(option: str, *names: str) -> str | None:
        given = getattr(args, option)
        return given if given is not None else _first(environment, names)

    mode = _mode(spelling, args, environment)
    namespace, component, endpoint = _place(
        value("endpoint", "DYN_ENDPOINT"),
        _first(environment, ("DYN_NAMESPACE",)) if args.namespace is None else args.namespace,
        value("component", "DYN_COMPONENT"),
        mode,
    )
    model_path = value("model_path", "DYN_MODEL_PATH")
    if not model_path:
        raise WrongUsage("no model was given; name one: --model-path FOLDER_OR_ID")
    kv_events = args.kv_events
    if kv_events is None and (said := _first(environment, ("DYN_KV_EVENTS",))):
        kv_events = said.lower() in ("1", "true", "yes", "on")
    return Options(
        namespace=namespace,
        component=component,
        endpoint=endpoint,
        model_path=model_path,
        model_name=value("model_name", "DYN_MODEL_NAME"),
        mode=mode,
        kv_events=kv_events,
        custom_jinja_template=value("custom_jinja_template", "DYN_CUSTOM_JINJA_TEMPLATE"),
        health_check_payload=_payload(value("health_check_payload", "DYN_HEALTH_CHECK_PAYLOAD")),
        runtime=[*runtime, "--namespace", namespace],
        engine=engine,
    )


def _part(words: list[str]) -> tuple[list[str], list[str]]:
    if "--" not in words:
        return words, []
    at = words.index("--")
    return words[:at], words[at + 1 :]


def _first(environment: Mapping[str, str], names: Sequence[str]) -> str | None:
    return next((environment[name] for name in names if environment.get(name)), None)


def _of_file(path: str | None) -> list[str]:
    if path is None:
        return []
    try:
        return engine_words.of_mapping(engine_words.of_text(Path(path).read_text()))
    except (OSError, ValueError) as error:
        raise WrongUsage(f"--extra-engine-args {path}: {error}") from error


def _passed_on(
    spelling: Spelling, args: argparse.Namespace, environment: Mapping[str, str]
) -> list[str]:
    words: list[str] = []
    for flag in PASSED_ON:
        name = flag.replace("-", "_")
        value = getattr(args, name)
        if value is None:
            value = _first(environment, (f"DYN_{name.upper()}",))
        if value is None:
            continue
        words += spelling.words(flag, value)
    return words


def _instead(flag: str) -> str:
    if flag == "base-gpu-id":
        return "; choose its GPUs by CUDA_VISIBLE_DEVICES"
    return "; give its own flags for that"


def _mode(spelling: Spelling, args: argparse.Namespace, environment: Mapping[str, str]) -> Mode:
    said = args.disaggregation_mode
    flags = [
        mode
        for is_given, mode in (
            (args.is_prefill_worker, Mode.PREFILL),
            (args.is_decode_worker, Mode.DECODE),
        )
        if is_given
    ]
    if said is None and not flags:
        said = _first(environment, (f"DYN_{spelling.name.upper()}_DISAGGREGATION_MODE",)) or "agg"
    try:
        modes = {*flags, *([Mode.parse(said)] if said is not None else [])}
    except ValueError as error:
        raise WrongUsage(f"--disaggregation-mode: {error}") from error
    if len(modes) > 1:
        names = " and ".join(sorted(mode.value for mode in modes))
        raise WrongUsage(f"a worker has one mode, not {names}; give --disaggregation-mode alone")
    return modes.pop()


def _place(
    endpoint: str | None, namespace: str | None, component: str | None, mode: Mode
) -> tuple[str, str, str]:
    """Namespace, component and endpoint; what `--endpoint dyn://...` names wins."""
    namespace = namespace or DEFAULT_NAMESPACE
    component = component or mode.default_component
    if endpoint is None:
        return namespace, component, DEFAULT_ENDPOINT
    parts = endpoint.removeprefix(_SCHEME).split(".")
    if not all(parts) or len(parts) > 3:
        raise WrongUsage(f"--endpoint {endpoint} is no endpoint; write dyn://NAMESPACE.COMPONENT.NAME")
    if len(parts) == 3:
        return parts[0], parts[1], parts[2]
    if len(parts) == 2:
        return parts[0], parts[1], DEFAULT_ENDPOINT
    if endpoint.startswith(_SCHEME):
        return namespace, parts[0], DEFAULT_ENDPOINT
    return namespace, component, parts[0]


def _payload(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        payload = json.loads(Path(text[1:]).read_text() if text.startswith("@") else text)
    except (OSError, ValueError) as error:
        raise WrongUsage(f"--health-check-payload: {error}") from error
    if not isinstance(payload, dict) or not payload.get("token_ids"):
        raise WrongUsage('--health-check-payload needs tokens: {"token_ids": [1]}')
    return payload
