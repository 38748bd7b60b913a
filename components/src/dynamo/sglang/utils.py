"""The command line of an SGLang worker: what all workers take, and every flag of SGLang's own.

`parse_sglang_args` is for workers that people write: it gives SGLang's `ServerArgs` alone.
"""

import argparse
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
    "sglang",
    {
        "tensor-parallel-size": "tp-size",
        "context-length": "context-length",
        "kv-cache-block-size": "page-size",
        "num-nodes": "nnodes",
        "node-rank": "node-rank",
        "leader-addr": "dist-init-addr",
        "base-gpu-id": "base-gpu-id",
    },
)

_SHOWN = "Every other flag is SGLang's own and is checked by SGLang; --engine-help lists them."
_NOT_SHOWN = (
    "Every other flag is SGLang's own. They are not shown, as SGLang is not installed here:\n"
    'pip install "ai-dynamo[sglang]"'
)

#: What the option is called by which SGLang streams only what is new, the newest name first.
_INCREMENTAL = ("incremental_streaming_output", "stream_output")


@dataclass(frozen=True)
class Config:
    """A worker's options, and SGLang's `ServerArgs` with the words that they were made of."""

    options: Options
    server_args: Any
    words: list[str]


def parse_sglang_args(words: Sequence[str] | None = None) -> Any:
    """SGLang's `ServerArgs` of a worker's command line, by default this process's.

    Raises:
        WrongUsage: our part of it is wrong. What SGLang does not understand ends the process with
            status 2, as its parser does.
        EngineMissing: SGLang is not installed.
    """
    return parse_worker_args(words).server_args


def parse_worker_args(words: Sequence[str] | None = None) -> Config:
    """The same, with the options that are not SGLang's."""
    words = list(sys.argv[1:] if words is None else words)
    is_there = absent.is_installed("sglang")
    read = options.parse(
        SPELLING,
        words,
        engine=_engine_parser if is_there else None,
        note=_SHOWN if is_there else _NOT_SHOWN,
    )
    server_args = _server_args()
    known = set(_engine_parser()._option_string_actions)
    engine = [*_of_worker(read, known), *read.engine]
    assert read.read_engine is not None
    return Config(read, server_args.from_cli_args(read.read_engine(engine)), engine)


def _server_args() -> Any:
    return absent.require("sglang.srt.server_args", "sglang").ServerArgs


def _engine_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m dynamo.sglang", allow_abbrev=False)
    _server_args().add_cli_args(parser)
    return parser


def _of_worker(read: Options, known: set[str]) -> list[str]:
    """What the worker itself says to SGLang; each of them unless it was said.

    Args:
        known: SGLang's flags, which differ between its versions.
    """

    def unsaid(*names: str) -> bool:
        return not engine_words.given(read.engine, *names)

    words = ["--model-path", read.model_path]
    if read.model_name is not None:
        words += ["--served-model-name", read.model_name]
    incremental = next(
        (flag for name in _INCREMENTAL if (flag := f"--{name.replace('_', '-')}") in known), None
    )
    if incremental is not None and unsaid(*_INCREMENTAL):
        words.append(incremental)
    if read.mode is not Mode.AGGREGATED:
        words += ["--disaggregation-mode", read.mode.value]
    if wants_events(read) and unsaid("kv-events-config") and "--kv-events-config" in known:
        words += ["--kv-events-config", json.dumps(_events_config(read))]
    if unsaid("log-level"):
        words += ["--log-level", read.log_level.split(",")[0]]
    return words


def wants_events(read: Options) -> bool:
    """Whether SGLang is to publish KV events. Those of a decode worker are of no use: prompts are
    computed elsewhere."""
    return read.kv_events is not False and read.mode is not Mode.DECODE


def _events_config(read: Options) -> dict[str, Any]:
    """A socket for KV events; each data-parallel rank takes the next port."""
    ranks = engine_words.number(read.engine, 1, "dp-size", "data-parallel-size")
    return {
        "publisher": "zmq",
        "topic": "kv-events",
        "endpoint": f"tcp://*:{free_ports(ranks)}",
    }
