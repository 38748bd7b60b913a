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


parser = DynamoFlexibleArgumentParser("python3 -m dynamo.demo")
parser.add_argument("--model-path", required=True, env="DYN_MODEL_PATH", help="Where the model is.")
parser.add_argument("--block-size", type=int, default=16, min=1, max=128, env="DYN_BLOCK_SIZE")
parser.add_argument("--mode", choices=["agg", "prefill", "decode"], default="agg")
parser.add_argument("--patience", type=timedelta, default=timedelta(seconds=5))
parser.add_argument("--room", type=SIZE, default=1024)
parser.add_argument("--weight", type=float, action="append")
parser.add_argument("--api-key", secret=True)
parser.add_argument("--cache", type=bool, default=True)
parser.add_runtime_arguments()
parser.add_engine_arguments(engine, name="demo-engine")

if __name__ == "__main__":
    parsed = parser.parse_args()
    parser.engine_arguments(parsed)
    print("started")
