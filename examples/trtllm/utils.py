"""The command line of the TensorRT-LLM example. TensorRT-LLM has no parser to pass flags on to: what
its `LLM` takes is named here, and in a file of `configs/engines/trtllm`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dynamo.runtime.arguments import DynamoFlexibleArgumentParser, config_file
from dynamo.runtime.arguments.document import plain


@dataclass(frozen=True)
class Config:
    """What the worker was started with."""

    model_path: str
    model_name: str | None
    runtime: list[str]
    #: Arguments of `tensorrt_llm.LLM`.
    engine: dict[str, Any] = field(default_factory=dict)


def parse_trtllm_args(words: Sequence[str] | None = None) -> Config:
    """Reads the command line, by default this process's."""
    parser = DynamoFlexibleArgumentParser(
        "trtllm_engine.py", component="trtllm", description="Serves a model with TensorRT-LLM."
    )
    parser.add_argument(
        "--model-path", "--model", required=True, env="DYN_MODEL_PATH", help="folder or hub id"
    )
    parser.add_argument("--model-name", env="DYN_MODEL_NAME", help="name that clients ask for")
    add = parser.add_argument_group("TensorRT-LLM options").add_argument
    add("--tensor-parallel-size", type=int, default=1, min=1, help="GPUs that share each layer")
    add("--max-batch-size", type=int, min=1, help="sequences that run at once")
    add("--max-num-tokens", type=int, min=1, help="tokens that one step computes")
    add("--max-seq-len", type=int, min=1, help="longest sequence, prompt and answer, in tokens")
    add("--extra-engine-args", type=Path, help="YAML file with more arguments of LLM")
    parser.add_runtime_arguments()
    parsed = parser.parse_args(words)
    engine: dict[str, Any] = {}
    if parsed.extra_engine_args is not None:
        try:
            read = plain(config_file.read(parsed.extra_engine_args))
        except config_file.FileTrouble as error:
            parser.error(str(error))
        assert isinstance(read, dict)
        engine.update(read)
    for name in ("tensor_parallel_size", "max_batch_size", "max_num_tokens", "max_seq_len"):
        # A flag wins over the file, the file over a default.
        is_given = parsed.sources[name].kind != "default"
        if is_given or (name not in engine and getattr(parsed, name) is not None):
            engine[name] = getattr(parsed, name)
    return Config(
        model_path=parsed.model_path,
        model_name=parsed.model_name,
        runtime=parser.runtime_arguments(parsed),
        engine=engine,
    )
