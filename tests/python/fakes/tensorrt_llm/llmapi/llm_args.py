"""See `tensorrt_llm`: a few of its arguments."""


class TorchLlmArgs:
    model_fields = dict.fromkeys(
        [
            *(
                "model",
                "tensor_parallel_size",
                "pipeline_parallel_size",
                "moe_expert_parallel_size",
            ),
            *("max_batch_size", "max_num_tokens", "max_seq_len", "max_beam_width"),
            *("kv_cache_config", "cache_transceiver_config", "enable_attention_dp"),
            *("guided_decoding_backend", "enable_iter_perf_stats", "disable_overlap_scheduler"),
            *("backend", "enable_chunked_prefill"),
        ]
    )
