"""The engine."""

import asyncio
from types import SimpleNamespace


class SamplingParams:
    def __init__(self, **given):
        self.__dict__.update(given)


class LLM:
    def __init__(self, model, skip_tokenizer_init, tensor_parallel_size=1, **more):
        assert skip_tokenizer_init
        print(f"engine of {model} with tp {tensor_parallel_size}", flush=True)

    def generate_async(self, inputs, sampling_params, streaming):
        assert streaming
        return Result(inputs, sampling_params.max_tokens)


class Result:
    def __init__(self, tokens, most):
        self.tokens = tokens[:most]
        self.count = 0

    @property
    def finished(self):
        return self.count == len(self.tokens)

    def abort(self):
        print("cancelled by abort", flush=True)

    def __aiter__(self):
        return self

    async def __anext__(self):
        if self.finished:
            raise StopAsyncIteration
        await asyncio.sleep(0)
        self.count += 1
        reason = "length" if self.finished else None
        answer = SimpleNamespace(token_ids=self.tokens[: self.count], finish_reason=reason)
        return SimpleNamespace(outputs=[answer])
