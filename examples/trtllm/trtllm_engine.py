"""A worker that hosts TensorRT-LLM, in one page.

    python3 examples/trtllm/trtllm_engine.py --model Qwen/Qwen3-0.6B
    python3 examples/common/frontend.py --http-port 8000      # in another terminal

`python3 -m dynamo.trtllm` does more: prefill and decode apart, KV events, load.
"""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

# So that it runs as a file from anywhere, and as `python3 -m examples.trtllm.trtllm_engine`.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.common.base_classes import BaseDecodeWorker, PreprocessedRequest, Sent, serve
from examples.trtllm.utils import Config, parse_trtllm_args

from dynamo.deploy import BaseDeployment
from dynamo.runtime import Context, DistributedRuntime, dynamo_worker

logger = logging.getLogger(__name__)


class Deployment(BaseDeployment):
    """Where it stands, and what it needs."""

    namespace = "dynamo"
    name = "backend"
    resources = {"gpu": 1}


class TrtllmDecodeWorker(BaseDecodeWorker):
    """TensorRT-LLM's engine behind an endpoint."""

    def __init__(self, model_path: str, engine: dict[str, Any]) -> None:
        from tensorrt_llm.llmapi import LLM

        self.engine = LLM(model=model_path, skip_tokenizer_init=True, **engine)
        logger.info("decode worker initialised")

    async def generate(
        self, request: dict[str, Any], context: Context
    ) -> AsyncIterator[dict[str, Any]]:
        """Yields the tokens of an answer as TensorRT-LLM gives them."""
        from tensorrt_llm.llmapi import SamplingParams

        asked = PreprocessedRequest.of(request)
        sampling = asked.sampling(
            temperature="temperature",
            top_p="top_p",
            min_p="min_p",
            presence_penalty="presence_penalty",
            frequency_penalty="frequency_penalty",
            repetition_penalty="repetition_penalty",
            seed="seed",
        )
        params = SamplingParams(
            max_tokens=asked.max_tokens,
            ignore_eos=bool(asked.stop_conditions.get("ignore_eos")),
            stop_token_ids=asked.stop_conditions.get("stop_token_ids"),
            end_id=(request.get("eos_token_ids") or [-1])[0],
            detokenize=False,
            **sampling,
        )
        sent = Sent()
        result = self.engine.generate_async(asked.token_ids, params, streaming=True)
        try:
            async for step in result:
                answer = step.outputs[0]
                output: dict[str, Any] = {"token_ids": sent.new(answer.token_ids)}
                if answer.finish_reason:
                    output["finish_reason"] = answer.finish_reason
                yield output
        finally:
            # Of an answer that has ended this asks nothing.
            if not result.finished:
                result.abort()


async def worker(runtime: DistributedRuntime, config: Config) -> None:
    """Serves until the process is asked to end."""
    engine = TrtllmDecodeWorker(config.model_path, config.engine)
    await serve(runtime, Deployment(), engine, config.model_path, config.model_name)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    config = parse_trtllm_args()
    asyncio.run(dynamo_worker(arguments=config.runtime)(worker)(config))
