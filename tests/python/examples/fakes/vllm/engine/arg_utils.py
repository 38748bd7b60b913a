"""The arguments of the engine."""

from dataclasses import dataclass


@dataclass
class AsyncEngineArgs:
    model: str
    tensor_parallel_size: int

    @staticmethod
    def add_cli_args(parser):
        parser.add_argument("--model", default="facebook/opt-125m")
        parser.add_argument("--tensor-parallel-size", "-tp", type=int, default=1)
        parser.add_argument("--config")
        return parser

    @classmethod
    def from_cli_args(cls, args):
        return cls(args.model, args.tensor_parallel_size)
