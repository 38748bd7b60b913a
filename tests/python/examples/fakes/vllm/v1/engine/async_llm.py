"""The engine."""

import asyncio
from types import SimpleNamespace


class AsyncLLM:
    def __init__(self, engine_args):
        print(
            f"engine of {engine_args.model} with tp {engine_args.tensor_parallel_size}", flush=True
        )

    @classmethod
    def from_engine_args(cls, engine_args):
        return cls(engine_args)

    async def generate(self, prompt, params, request_id):
        tokens = prompt["prompt_token_ids"]
        last = min(params.max_tokens, len(tokens))
        try:
            for count in range(1, last + 1):
                await asyncio.sleep(0)
                reason = "length" if count == last else None
                answer = SimpleNamespace(token_ids=tokens[:count], finish_reason=reason)
                yield SimpleNamespace(outputs=[answer])
        except BaseException as error:
            print(f"cancelled by {type(error).__name__}", flush=True)
            raise
