"""Stands in for TensorRT-LLM: the surface of it that `dynamo.trtllm` uses, as its documentation and
sources of 1.x have it, and nothing more. What it answers has the recorded shapes of that version.

`LLM` gives the prompt back, token by token; each result has the tokens from the beginning. What it
was asked is written as JSON lines to the file that `FAKE_ENGINE_LOG` names.
"""

import asyncio
import dataclasses
import json
import os
from types import SimpleNamespace

from tensorrt_llm.disaggregated_params import DisaggregatedParams


def _log(what, **more):
    path = os.environ.get("FAKE_ENGINE_LOG")
    if path:
        with open(path, "a") as log:
            log.write(json.dumps({"what": what, **more}, default=str) + "\n")


@dataclasses.dataclass(kw_only=True)
class SamplingParams:
    end_id: int = None
    max_tokens: int = 32
    stop_token_ids: list = None
    n: int = 1
    top_k: int = None
    top_p: float = None
    min_p: float = None
    seed: int = None
    temperature: float = None
    min_tokens: int = None
    repetition_penalty: float = None
    presence_penalty: float = None
    frequency_penalty: float = None
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    detokenize: bool = True
    logprobs: int = None
    guided_decoding: object = None


@dataclasses.dataclass
class _Choice:
    index: int = 0
    token_ids: list = dataclasses.field(default_factory=list)
    logprobs: list = dataclasses.field(default_factory=list)
    finish_reason: str = None
    stop_reason: object = None
    disaggregated_params: object = None


class _Result:
    def __init__(self, llm, tokens, params, streaming, disaggregated):
        self.outputs = [_Choice()]
        self.cached_tokens = 2
        self._llm, self._tokens, self._params = llm, tokens, params
        self._streaming, self._disaggregated = streaming, disaggregated
        self._aborted = False

    def abort(self):
        _log("abort")
        self._aborted = True

    def __aiter__(self):
        return self._steps()

    async def _steps(self):
        choice, most = self.outputs[0], self._params.max_tokens
        for at in range(most):
            await asyncio.sleep(0.002)
            if self._aborted:
                choice.finish_reason = "cancelled"
                yield self
                return
            choice.token_ids.append(self._tokens[at % len(self._tokens)])
            if self._params.logprobs:
                choice.logprobs.append(
                    {
                        choice.token_ids[-1]: SimpleNamespace(logprob=-0.5, rank=1),
                        7: SimpleNamespace(logprob=-2.0, rank=2),
                    }
                )
            if at + 1 == most:
                choice.finish_reason = "length"
                self._llm.stored(self._tokens)
                if self._disaggregated and self._disaggregated.request_type == "context_only":
                    choice.disaggregated_params = DisaggregatedParams(
                        request_type="context_only",
                        first_gen_tokens=choice.token_ids[:1],
                        ctx_request_id=77,
                        opaque_state=b"\x00\xffstate",
                    )
            if self._streaming or at + 1 == most:
                yield self


class LLM:
    def __init__(self, **kwargs):
        from tensorrt_llm.llmapi.llm_args import TorchLlmArgs

        unknown = set(kwargs) - set(TorchLlmArgs.model_fields)
        if unknown:
            raise ValueError(f"unknown arguments: {unknown}")
        cache = kwargs.get("kv_cache_config") or {}
        self.args = SimpleNamespace(
            max_seq_len=kwargs.get("max_seq_len", 2_048),
            max_batch_size=kwargs.get("max_batch_size", 64),
            max_num_tokens=kwargs.get("max_num_tokens", 8_192),
            tensor_parallel_size=kwargs.get("tensor_parallel_size", 1),
            enable_attention_dp=kwargs.get("enable_attention_dp", False),
            guided_decoding_backend=kwargs.get("guided_decoding_backend"),
            kv_cache_config=SimpleNamespace(tokens_per_block=cache.get("tokens_per_block", 32)),
        )
        self._events = [
            {"event_id": 0, "window_size": 2_048, "data": {"type": "created"}},
        ]
        _log("start", args=kwargs)

    def generate_async(
        self,
        inputs,
        sampling_params=None,
        lora_request=None,
        streaming=False,
        disaggregated_params=None,
        trace_headers=None,
        cache_salt=None,
    ):
        _log(
            "generate",
            inputs=inputs,
            params=dataclasses.asdict(sampling_params),
            streaming=streaming,
            disaggregated=disaggregated_params and dataclasses.asdict(disaggregated_params),
        )
        return _Result(self, inputs, sampling_params, streaming, disaggregated_params)

    def stored(self, tokens):
        size = self.args.kv_cache_config.tokens_per_block
        blocks = [
            {
                "type": "stored_block",
                "block_hash": hash(tuple(tokens[: at + size])) & (2**64 - 1),
                "tokens": [{"token_id": it, "token_extra_id": 0} for it in tokens[at : at + size]],
            }
            for at in range(0, len(tokens), size)
        ]
        data = {"type": "stored", "parent_hash": None, "blocks": blocks}
        self._events.append({"event_id": len(self._events), "window_size": 2_048, "data": data})

    async def get_kv_cache_events_async(self, timeout=2):
        while self._events:
            yield self._events.pop(0)

    async def get_stats_async(self, timeout=2):
        yield {"kvCacheStats": {"usedNumBlocks": 5, "maxNumBlocks": 100}}

    def shutdown(self):
        _log("shutdown")
