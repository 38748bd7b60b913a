"""The arguments of the engine, as argparse takes them."""

from dataclasses import dataclass


@dataclass
class ServerArgs:
    model_path: str
    tp_size: int
    skip_tokenizer_init: bool

    @staticmethod
    def add_cli_args(parser):
        parser.add_argument("--model-path", "--model", required=True)
        parser.add_argument(
            "--tensor-parallel-size", "--tp-size", dest="tp_size", type=int, default=1
        )
        parser.add_argument("--skip-tokenizer-init", action="store_true")
        parser.add_argument("--log-level", default="info")

    @classmethod
    def from_cli_args(cls, args):
        return cls(args.model_path, args.tp_size, args.skip_tokenizer_init)
