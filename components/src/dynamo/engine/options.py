"""Options that all engine workers take: where they are, what they serve, and how.

A worker's command line has three kinds of words: these, the runtime's, and the engine's, which its
own parser checks; what stands after `--` is the engine's in any case. Flags win over `DYN_*`
variables, those over a file (`--config`), and that over defaults; `--print-config` shows all.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dynamo.engine import engine_words
from dynamo.engine.modes import Mode
from dynamo.runtime.arguments import DynamoFlexibleArgumentParser, Parsed
from dynamo.runtime.arguments.config_file import FileTrouble

#: What stands before an endpoint's path.
_SCHEME = "dyn://"

DEFAULT_ENDPOINT = "generate"

#: Flags of the runtime that engines have as well. They mean the same, and are passed on.
_SHARED_WITH_RUNTIME = ("--log-level",)


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
        log_level: the runtime's.
        runtime: words for `DistributedRuntime`.
        engine: words for the engine's own parser.
        read_engine: what that parser makes of words; ends the process with status 2 and its own
            message where it refuses them.
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
    log_level: str
    runtime: list[str] = field(default_factory=list)
    engine: list[str] = field(default_factory=list)
    read_engine: Callable[[Sequence[str]], argparse.Namespace] | None = field(
        default=None, repr=False, compare=False
    )


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


#: What makes an engine's parser; `None` where the engine is not installed.
EngineParser = Callable[[], argparse.ArgumentParser] | None


def parser(
    spelling: Spelling,
    engine: EngineParser = None,
    environment: Mapping[str, str] | None = None,
    note: str = "",
) -> DynamoFlexibleArgumentParser:
    """The parser of a worker's command line.

    Args:
        environment: in place of the process's own.
        note: what `--help` says at its end.
    """
    made = DynamoFlexibleArgumentParser(
        f"python3 -m dynamo.{spelling.name}",
        description=f"Serves a model with {spelling.name}.",
        epilog=note,
        environment=environment,
    )
    add = made.add_argument
    add(
        "--model-path",
        "--model",
        metavar="MODEL",
        env="DYN_MODEL_PATH",
        help="folder or Hugging Face id",
    )
    add(
        "--model-name",
        "--served-model-name",
        metavar="NAME",
        env="DYN_MODEL_NAME",
        help="name that clients ask for; made of the path if not given",
    )
    add(
        "--component",
        env="DYN_COMPONENT",
        help="kind of worker: backend, or prefill for prefill workers",
    )
    add(
        "--endpoint",
        env="DYN_ENDPOINT",
        help="where it is served: dyn://NAMESPACE.COMPONENT.NAME, or a name [default: generate]",
    )
    add(
        "--disaggregation-mode",
        metavar="{agg,prefill,decode}",
        env=f"DYN_{spelling.name.upper()}_DISAGGREGATION_MODE",
        help="what the worker does of a request",
    )
    add(
        "--is-prefill-worker", action="store_true", help="the same as --disaggregation-mode prefill"
    )
    add("--is-decode-worker", action="store_true", help="the same as --disaggregation-mode decode")
    add(
        "--kv-events",
        type=bool,
        default=None,
        env="DYN_KV_EVENTS",
        help="pass on the engine's KV events, by which prompts find what is cached",
    )
    add(
        "--custom-jinja-template",
        metavar="FILE",
        env="DYN_CUSTOM_JINJA_TEMPLATE",
        help="chat template in place of the model's own",
    )
    add(
        "--health-check-payload",
        metavar="JSON|@FILE",
        env="DYN_HEALTH_CHECK_PAYLOAD",
        help="request that shows whether the engine works",
    )
    add(
        "--extra-engine-args",
        metavar="FILE",
        help="JSON or YAML file with more of the engine's flags",
    )
    for flag, text in PASSED_ON.items():
        name = f"DYN_{flag.replace('-', '_').upper()}"
        add(f"--{flag}", metavar="VALUE", env=name, help=f"{text} ({spelling.shown(flag)})")
    mine = {flag for action in made._actions for flag in action.option_strings}
    made.add_runtime_arguments()
    if engine is not None:
        made.add_engine_arguments(
            engine, name=spelling.name, keep={*mine, *_SHARED_WITH_RUNTIME, "-h", "--help"}
        )
    return made


def parse(
    spelling: Spelling,
    words: Sequence[str],
    environment: Mapping[str, str] | None = None,
    engine: EngineParser = None,
    note: str = "",
) -> Options:
    """Reads a command line.

    Raises:
        WrongUsage: it makes no sense. What cannot be read at all ends the process with status 2.
    """
    words = list(words)
    if words and words[0].startswith(_SCHEME):
        words.insert(0, "--endpoint")
    made = parser(spelling, engine, environment, note)
    # Without the engine nobody knows its flags; who needs them is told that it is missing.
    args, unknown = made.parse_known_args(words)
    more = [*_of_file(args.extra_engine_args), *_passed_on(spelling, args)]
    mode = _mode(args)
    namespace, component, endpoint = _place(args.endpoint, args.namespace, args.component, mode)
    if not args.model_path:
        raise WrongUsage("no model was given; name one: --model-path FOLDER_OR_ID")
    return Options(
        namespace=namespace,
        component=component,
        endpoint=endpoint,
        model_path=args.model_path,
        model_name=args.model_name,
        mode=mode,
        kv_events=args.kv_events,
        custom_jinja_template=args.custom_jinja_template,
        health_check_payload=_payload(args.health_check_payload),
        log_level=args.log_level,
        runtime=[*made.runtime_arguments(args), "--namespace", namespace],
        engine=[*more, *(args.engine_words if engine else unknown)],
        read_engine=lambda given: made.engine_arguments(Parsed(), given),
    )


def _of_file(path: str | None) -> list[str]:
    if path is None:
        return []
    try:
        return engine_words.of_file(Path(path))
    except (OSError, FileTrouble) as error:
        raise WrongUsage(f"--extra-engine-args {path}: {error}") from error


def _passed_on(spelling: Spelling, args: argparse.Namespace) -> list[str]:
    words: list[str] = []
    for flag in PASSED_ON:
        value = getattr(args, flag.replace("-", "_"))
        if value is not None:
            words += spelling.words(flag, value)
    return words


def _instead(flag: str) -> str:
    if flag == "base-gpu-id":
        return "; choose its GPUs by CUDA_VISIBLE_DEVICES"
    return "; give its own flags for that"


def _mode(args: Parsed) -> Mode:
    said = args.disaggregation_mode
    flags = {
        mode
        for is_given, mode in (
            (args.is_prefill_worker, Mode.PREFILL),
            (args.is_decode_worker, Mode.DECODE),
        )
        if is_given
    }
    if flags and args.sources["disaggregation_mode"].kind != "flag":
        # Of the command line and another source, the command line counts.
        said = None
    try:
        modes = {*flags, *([Mode.parse(said)] if said is not None else [])} or {Mode.AGGREGATED}
    except ValueError as error:
        raise WrongUsage(f"--disaggregation-mode: {error}") from error
    if len(modes) > 1:
        names = " and ".join(sorted(mode.value for mode in modes))
        raise WrongUsage(f"a worker has one mode, not {names}; give --disaggregation-mode alone")
    return modes.pop()


def _place(
    endpoint: str | None, namespace: str, component: str | None, mode: Mode
) -> tuple[str, str, str]:
    """Namespace, component and endpoint; what `--endpoint dyn://...` names wins."""
    component = component or mode.default_component
    if endpoint is None:
        return namespace, component, DEFAULT_ENDPOINT
    parts = endpoint.removeprefix(_SCHEME).split(".")
    if not all(parts) or len(parts) > 3:
        raise WrongUsage(
            f"--endpoint {endpoint} is no endpoint; write dyn://NAMESPACE.COMPONENT.NAME"
        )
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
