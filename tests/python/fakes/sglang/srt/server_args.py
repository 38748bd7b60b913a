"""See `sglang`: a few of its flags, declared as it declares them."""

import dataclasses


@dataclasses.dataclass
class ServerArgs:
    model_path: str
    served_model_name: str = None
    context_length: int = None
    page_size: int = 1
    tp_size: int = 1
    dp_size: int = 1
    nnodes: int = 1
    node_rank: int = 0
    base_gpu_id: int = 0
    dist_init_addr: str = None
    log_level: str = "info"
    max_running_requests: int = None
    max_prefill_tokens: int = 16384
    chunked_prefill_size: int = None
    skip_tokenizer_init: bool = False
    incremental_streaming_output: bool = False
    grammar_backend: str = None
    kv_events_config: str = None
    enable_lora: bool = False
    max_loras_per_batch: int = 8
    disaggregation_mode: str = "null"
    disaggregation_bootstrap_port: int = 8998

    @staticmethod
    def add_cli_args(parser):
        for field in dataclasses.fields(ServerArgs):
            names = [f"--{field.name.replace('_', '-')}"]
            if field.name == "tp_size":
                names.append("--tensor-parallel-size")
            if field.type is bool:
                parser.add_argument(*names, action="store_true")
            else:
                parser.add_argument(*names, type=field.type, default=field.default)

    @classmethod
    def from_cli_args(cls, args):
        return cls(**{field.name: getattr(args, field.name) for field in dataclasses.fields(cls)})
