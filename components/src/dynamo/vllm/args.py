"""The command line of a vLLM worker: what all workers take, and every flag of vLLM's own."""

import argparse
import importlib.util
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dynamo.engine import absent, engine_words, options
from dynamo.engine.modes import Mode
from dynamo.engine.options import Options, Spelling
from dynamo.engine.ports import free_ports

SPELLING = Spelling(
    "vllm",
    {
        "tensor-parallel-size": "tensor-parallel-size",
        "context-length": "max-model-len",
        "kv-cache-block-size": "block-size",
        "num-nodes": "nnodes",
        "node-rank": "node-rank",
        "leader-addr": ("master-addr", "master-port"),
    },
)

_SHOWN = "Every other flag is vLLM's own and is checked by vLLM; --engine-help lists them."
_NOT_SHOWN = (
    "Every other flag is vLLM's own. They are not shown, as vLLM is not installed here:\n"
    'pip install "ai-dynamo[vllm]"'
)

#: The connector that carries KV state from prefill to decode workers, unless another is named.
_CONNECTOR = "NixlConnector"

#: What it is to each.
_KV_ROLES = {Mode.PREFILL: "kv_producer", Mode.DECODE: "kv_consumer"}


@dataclass(frozen=True)
class Config:
    """A worker's options, and vLLM's `AsyncEngineArgs` with the words that they were made of."""

    options: Options
    engine_args: Any
    words: list[str]


def parse_vllm_args(words: Sequence[str] | None = None) -> Config:
    """Reads a command line, by default this process's.

    Raises:
        WrongUsage: our part of it is wrong. What vLLM does not understand ends the process with
            status 2, as its parser does.
        EngineMissing: vLLM is not installed.
    """
    words = list(sys.argv[1:] if words is None else words)
    is_there = absent.is_installed("vllm")
    read = options.parse(
        SPELLING,
        words,
        engine=_engine_parser if is_there else None,
        note=_SHOWN if is_there else _NOT_SHOWN,
    )
    arg_utils = absent.require("vllm.engine.arg_utils", "vllm")
    engine = [*_of_worker(read), *read.engine]
    assert read.read_engine is not None
    args = arg_utils.AsyncEngineArgs.from_cli_args(read.read_engine(engine))
    return Config(read, args, engine)


def _engine_parser() -> argparse.ArgumentParser:
    arg_utils = absent.require("vllm.engine.arg_utils", "vllm")
    parsers = absent.require(_parser_module(), "vllm")
    made = parsers.FlexibleArgumentParser(prog="python3 -m dynamo.vllm")
    parser: argparse.ArgumentParser = arg_utils.AsyncEngineArgs.add_cli_args(made)
    return parser


def _parser_module() -> str:
    newer = "vllm.utils.argparse_utils"
    return newer if importlib.util.find_spec(newer) else "vllm.utils"


def _of_worker(read: Options) -> list[str]:
    """What the worker itself says to vLLM; each of them unless it was said."""
    words = ["--model", read.model_path]
    if read.model_name is not None:
        words += ["--served-model-name", read.model_name]
    if wants_events(read) and not engine_words.given(read.engine, "kv-events-config"):
        words += ["--kv-events-config", json.dumps(_events_config(read))]
    if read.mode in _KV_ROLES and not engine_words.given(read.engine, "kv-transfer-config"):
        config = {"kv_connector": _CONNECTOR, "kv_role": _KV_ROLES[read.mode]}
        words += ["--kv-transfer-config", json.dumps(config)]
    return words


def wants_events(read: Options) -> bool:
    """Whether vLLM is to publish KV events. Those of a decode worker are of no use: prompts are
    computed elsewhere."""
    return read.kv_events is not False and read.mode is not Mode.DECODE


def _events_config(read: Options) -> dict[str, Any]:
    """Sockets for KV events; each data-parallel rank takes the next port. vLLM listens only where
    all interfaces are meant."""
    ranks = engine_words.number(read.engine, 1, "data-parallel-size")
    first = free_ports(2 * ranks)
    return {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": f"tcp://*:{first}",
        "replay_endpoint": f"tcp://*:{first + ranks}",
    }
