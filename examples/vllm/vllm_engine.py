"""A worker that hosts vLLM, in one page.

    python3 examples/vllm/vllm_engine.py --model Qwen/Qwen3-0.6B
    python3 examples/common/frontend.py --http-port 8000      # in another terminal

`python3 -m dynamo.vllm` does more: prefill and decode apart, KV events, load, adapters.
"""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

# So that it runs as a file from anywhere, and as `python3 -m examples.vllm.vllm_engine`.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.common.base_classes import BaseDecodeWorker, PreprocessedRequest, Sent, serve
from examples.vllm.utils import Config, parse_vllm_args

from dynamo.deploy import BaseDeployment
from dynamo.runtime import Context, DistributedRuntime, dynamo_worker

logger = logging.getLogger(__name__)


class Deployment(BaseDeployment):
    """Where it stands, and what it needs."""

    namespace = "dynamo"
    name = "backend"
    resources = {"gpu": 1}


class VllmDecodeWorker(BaseDecodeWorker):
    """vLLM's engine behind an endpoint."""

    def __init__(self, engine_args: Any) -> None:
        from vllm.v1.engine.async_llm import AsyncLLM

        self.engine = AsyncLLM.from_engine_args(engine_args)
        logger.info("decode worker initialised")

    async def generate(
        self, request: dict[str, Any], context: Context
    ) -> AsyncIterator[dict[str, Any]]:
        """Yields the tokens of an answer as vLLM gives them."""
        from vllm import SamplingParams

        asked = PreprocessedRequest.of(request)
        sampling = asked.sampling(
            temperature="temperature",
            top_p="top_p",
            top_k="top_k",
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
            detokenize=False,
            **sampling,
        )
        sent = Sent()
        # When this is cancelled, so is vLLM's generator, which aborts the request.
        results = self.engine.generate({"prompt_token_ids": asked.token_ids}, params, context.id())
        async for result in results:
            answer = result.outputs[0]
            output: dict[str, Any] = {"token_ids": sent.new(answer.token_ids)}
            if answer.finish_reason:
                output["finish_reason"] = answer.finish_reason
            yield output


async def worker(runtime: DistributedRuntime, config: Config) -> None:
    """Serves until the process is asked to end."""
    engine = VllmDecodeWorker(config.engine_args)
    await serve(runtime, Deployment(), engine, config.model_path, config.model_name)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    config = parse_vllm_args()
    asyncio.run(dynamo_worker(arguments=config.runtime)(worker)(config))
