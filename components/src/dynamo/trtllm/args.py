"""The command line of a TensorRT-LLM worker: what all workers take, and every argument of `LLM`.

TensorRT-LLM has no parser of its own but a checked set of arguments, `LlmArgs`, with groups such as
`kv_cache_config`. Each is a flag here: `--max-batch-size 64`, and with a dot within a group:
`--kv-cache-config.free-gpu-memory-fraction 0.8`. The names are checked against `LlmArgs` before
anything is loaded, the values by it.
"""

import argparse
import difflib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dynamo.engine import absent, options
from dynamo.engine.modes import Mode
from dynamo.engine.options import Options, Spelling, WrongUsage

SPELLING = Spelling(
    "trtllm",
    {
        "tensor-parallel-size": "tensor-parallel-size",
        "context-length": "max-seq-len",
        "kv-cache-block-size": "kv-cache-config.tokens-per-block",
    },
)

#: Flags that users of earlier versions know, by what they mean.
_ALIASES = {
    "kv_block_size": "kv_cache_config.tokens_per_block",
    "free_gpu_memory_fraction": "kv_cache_config.free_gpu_memory_fraction",
    "expert_parallel_size": "moe_expert_parallel_size",
}

#: Events that TensorRT-LLM keeps until they are asked for, which is every few milliseconds.
_EVENT_BUFFER = 1_024

_SHOWN = """Every other flag is an argument of TensorRT-LLM's LLM: --max-batch-size 64, or within a group
--kv-cache-config.free-gpu-memory-fraction 0.8. They are checked by TensorRT-LLM; --engine-help lists
them."""
_NOT_SHOWN = """Every other flag is an argument of TensorRT-LLM's LLM. They are not shown, as TensorRT-LLM is not
installed here:
pip install "ai-dynamo[trtllm]\""""


@dataclass(frozen=True)
class Config:
    """A worker's options, and the arguments of `LLM` with the words that they were made of."""

    options: Options
    arguments: dict[str, Any]
    words: list[str]


def parse_trtllm_args(words: Sequence[str] | None = None) -> Config:
    """Reads a command line, by default this process's.

    Raises:
        WrongUsage: it cannot be understood, or names an argument that `LLM` does not have.
        EngineMissing: TensorRT-LLM is not installed.
    """
    words = list(sys.argv[1:] if words is None else words)
    is_there = absent.is_installed("tensorrt_llm")
    read = options.parse(
        SPELLING,
        words,
        engine=_engine_parser if is_there else None,
        note=_SHOWN if is_there else _NOT_SHOWN,
    )
    return Config(read, of_worker(read, arguments_of(read.engine, _fields())), read.engine)


def _fields() -> Mapping[str, Any]:
    args = absent.require("tensorrt_llm.llmapi.llm_args", "trtllm").TorchLlmArgs
    fields: Mapping[str, Any] = args.model_fields
    return fields


def _engine_parser() -> argparse.ArgumentParser:
    """A parser that knows the names; values are read by `arguments_of` and checked by `LlmArgs`."""
    made = argparse.ArgumentParser(prog="python3 -m dynamo.trtllm", allow_abbrev=False)
    for name, field in _fields().items():
        text = (getattr(field, "description", None) or "").replace("%", "%%")
        made.add_argument(f"--{name.replace('_', '-')}", metavar="VALUE", nargs="?", help=text)
    for name, meant in _ALIASES.items():
        text = f"the same as --{meant.replace('_', '-')}"
        made.add_argument(f"--{name.replace('_', '-')}", metavar="VALUE", help=text)
    made.add_argument(
        "--override-engine-args", metavar="JSON", help="arguments that win over others"
    )
    return made


def arguments_of(words: Sequence[str], known: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the flags; what comes later wins, groups are merged.

    Args:
        known: names of the arguments that there are.

    Raises:
        WrongUsage: a flag is none of them.
    """
    arguments: dict[str, Any] = {}
    rest = list(words)
    while rest:
        flag = rest.pop(0)
        if not flag.startswith("--"):
            raise WrongUsage(f"{flag} is no flag; write --NAME VALUE")
        name, has_value, text = flag[2:].partition("=")
        name = name.replace("-", "_")
        if name == "override_engine_args":
            merge(arguments, _value(text or _next(flag, rest)))
            continue
        name = _ALIASES.get(name, name)
        top = name.partition(".")[0]
        if top not in known:
            near = difflib.get_close_matches(top, known, n=1)
            hint = f"; do you mean --{near[0].replace('_', '-')}?" if near else ""
            raise WrongUsage(f"TensorRT-LLM has no argument {top} ({flag}){hint}")
        if not has_value and (not rest or rest[0].startswith("--")):
            set_at(arguments, name, True)
        else:
            set_at(arguments, name, _value(text if has_value else rest.pop(0)))
    return arguments


def of_worker(read: Options, arguments: dict[str, Any]) -> dict[str, Any]:
    """The same with what the worker itself says; each of them unless it was said."""
    made: dict[str, Any] = {"model": read.model_path, **arguments}
    cache = dict(made.get("kv_cache_config") or {})
    if read.kv_events is not False and read.mode is not Mode.DECODE:
        cache.setdefault("enable_block_reuse", True)
        if cache["enable_block_reuse"]:
            cache.setdefault("event_buffer_max_size", _EVENT_BUFFER)
    if cache:
        made["kv_cache_config"] = cache
    if read.mode is not Mode.AGGREGATED:
        made.setdefault("cache_transceiver_config", {"backend": "DEFAULT"})
    if read.mode is Mode.PREFILL:
        # A prompt's state is handed over after its own step.
        made.setdefault("disable_overlap_scheduler", True)
    made.setdefault("enable_iter_perf_stats", True)
    return made


def set_at(arguments: dict[str, Any], path: str, value: Any) -> None:
    """Sets an argument, within its groups."""
    *groups, last = path.split(".")
    for group in groups:
        inner = arguments.setdefault(group, {})
        if not isinstance(inner, dict):
            raise WrongUsage(f"--{path.replace('_', '-')}: {group} has a value already")
        arguments = inner
    if isinstance(value, dict) and isinstance(arguments.get(last), dict):
        merge(arguments[last], value)
    else:
        arguments[last] = value


def merge(into: dict[str, Any], values: Any) -> None:
    """Puts values in, group by group."""
    if not isinstance(values, Mapping):
        raise WrongUsage("--override-engine-args needs a mapping as JSON")
    for name, value in values.items():
        if isinstance(value, Mapping) and isinstance(into.get(name), dict):
            merge(into[name], value)
        else:
            into[name] = value


def _next(flag: str, rest: list[str]) -> str:
    if not rest:
        raise WrongUsage(f"{flag} needs a value")
    return rest.pop(0)


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return json.loads(text)
    except ValueError:
        return text
