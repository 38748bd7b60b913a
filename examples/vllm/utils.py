"""The command line of the vLLM example: a few options of its own, the runtime's, and every flag of
vLLM's, checked by vLLM."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dynamo.runtime.arguments import DynamoFlexibleArgumentParser


@dataclass(frozen=True)
class Config:
    """What the worker was started with."""

    engine_args: Any
    model_path: str
    model_name: str | None
    runtime: list[str]


def parse_vllm_args(words: Sequence[str] | None = None) -> Config:
    """Reads the command line, by default this process's."""
    parser = DynamoFlexibleArgumentParser(
        "vllm_engine.py", component="vllm", description="Serves a model with vLLM."
    )
    parser.add_argument(
        "--model-path", "--model", required=True, env="DYN_MODEL_PATH", help="folder or hub id"
    )
    parser.add_argument("--model-name", env="DYN_MODEL_NAME", help="name that clients ask for")
    parser.add_runtime_arguments()
    parser.add_engine_arguments(_engine_parser, name="vLLM", keep=["--model", "--config"])
    parsed = parser.parse_args(words)
    given = parser.engine_arguments(parsed, ["--model", parsed.model_path])
    from vllm.engine.arg_utils import AsyncEngineArgs

    return Config(
        engine_args=AsyncEngineArgs.from_cli_args(given),
        model_path=parsed.model_path,
        model_name=parsed.model_name,
        runtime=parser.runtime_arguments(parsed),
    )


def _engine_parser() -> argparse.ArgumentParser:
    from vllm.engine.arg_utils import AsyncEngineArgs

    try:
        from vllm.utils.argparse_utils import FlexibleArgumentParser
    except ImportError:
        # Older versions of vLLM keep it elsewhere.
        from vllm.utils import FlexibleArgumentParser

    parser: argparse.ArgumentParser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser("vllm"))
    return parser
