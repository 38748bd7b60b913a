"""The command line of the SGLang example: a few options of its own, the runtime's, and every flag of
SGLang's, checked by SGLang."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dynamo.runtime.arguments import DynamoFlexibleArgumentParser


@dataclass(frozen=True)
class Config:
    """What the worker was started with."""

    server_args: Any
    model_path: str
    model_name: str | None
    runtime: list[str]


def parse_sglang_args(words: Sequence[str] | None = None) -> Config:
    """Reads the command line, by default this process's."""
    parser = DynamoFlexibleArgumentParser(
        "sglang_engine.py", component="sglang", description="Serves a model with SGLang."
    )
    parser.add_argument(
        "--model-path", "--model", required=True, env="DYN_MODEL_PATH", help="folder or hub id"
    )
    parser.add_argument("--model-name", env="DYN_MODEL_NAME", help="name that clients ask for")
    parser.add_runtime_arguments()
    # Both have --log-level and paths of the model; here they are Dynamo's, and passed on below.
    shared = ["--model-path", "--model", "--log-level"]
    parser.add_engine_arguments(_engine_parser, name="SGLang", keep=shared)
    parsed = parser.parse_args(words)
    more = ["--model-path", parsed.model_path, "--skip-tokenizer-init"]
    given = parser.engine_arguments(parsed, more)
    from sglang.srt.server_args import ServerArgs

    return Config(
        server_args=ServerArgs.from_cli_args(given),
        model_path=parsed.model_path,
        model_name=parsed.model_name,
        runtime=parser.runtime_arguments(parsed),
    )


def _engine_parser() -> argparse.ArgumentParser:
    from sglang.srt.server_args import ServerArgs

    parser = argparse.ArgumentParser("sglang", allow_abbrev=False)
    ServerArgs.add_cli_args(parser)
    return parser
