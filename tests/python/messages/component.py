"""A component whose messages are looked at: an option of each kind, and an engine."""

import argparse
from datetime import timedelta

from dynamo.runtime.arguments import DynamoFlexibleArgumentParser
from dynamo.runtime.arguments.kinds import SIZE


def engine() -> argparse.ArgumentParser:
    """What stands for an engine's parser."""
    parser = argparse.ArgumentParser("engine")
    parser.add_argument("--tensor-parallel-size", "-tp", type=int, default=1)
    parser.add_argument("--log-level", choices=["info", "debug"])
    parser.add_argument("--trust-remote-code", action="store_true")
    return parser


def main(words: list[str]) -> int:
    """Reads a command line, and does nothing with it."""
    parser = DynamoFlexibleArgumentParser("python3 -m dynamo.demo")
    add = parser.add_argument
    add("--model-path", required=True, env="DYN_MODEL_PATH", help="Where the model is.")
    add("--block-size", type=int, default=16, min=1, max=128, env="DYN_BLOCK_SIZE")
    add("--mode", choices=["agg", "prefill", "decode"], default="agg")
    add("--patience", type=timedelta, default=timedelta(seconds=5))
    add("--room", type=SIZE, default=1024)
    add("--weight", type=float, action="append")
    add("--api-key", secret=True)
    add("--cache", type=bool, default=True)
    parser.add_runtime_arguments()
    parser.add_engine_arguments(engine, name="demo-engine")
    parser.engine_arguments(parser.parse_args(words))
    return 0
