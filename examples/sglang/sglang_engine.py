"""A worker that hosts SGLang, in one page.

    python3 examples/sglang/sglang_engine.py --model-path Qwen/Qwen3-0.6B
    python3 examples/common/frontend.py --http-port 8000      # in another terminal

`python3 -m dynamo.sglang` does more: prefill and decode apart, KV events, load, adapters.
"""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

# So that it runs as a file from anywhere, and as `python3 -m examples.sglang.sglang_engine`.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.common.base_classes import BaseDecodeWorker, PreprocessedRequest, Sent, serve
from examples.sglang.utils import Config, parse_sglang_args

from dynamo.deploy import BaseDeployment
from dynamo.runtime import Context, DistributedRuntime, dynamo_worker

logger = logging.getLogger(__name__)


class Deployment(BaseDeployment):
    """Where it stands, and what it needs."""

    namespace = "dynamo"
    name = "backend"
    resources = {"gpu": 1}


class SGLangDecodeWorker(BaseDecodeWorker):
    """SGLang's engine behind an endpoint."""

    def __init__(self, server_args: Any) -> None:
        import sglang

        self.engine = sglang.Engine(server_args=server_args)
        logger.info("decode worker initialised")

    async def generate(
        self, request: dict[str, Any], context: Context
    ) -> AsyncIterator[dict[str, Any]]:
        """Yields the tokens of an answer as SGLang gives them."""
        asked = PreprocessedRequest.of(request)
        sampling = asked.sampling(
            temperature="temperature",
            top_p="top_p",
            top_k="top_k",
            min_p="min_p",
            presence_penalty="presence_penalty",
            frequency_penalty="frequency_penalty",
        )
        sampling["max_new_tokens"] = asked.max_tokens
        sampling["ignore_eos"] = bool(asked.stop_conditions.get("ignore_eos"))
        sampling["stop_token_ids"] = asked.stop_conditions.get("stop_token_ids")
        sent = Sent()
        results = await self.engine.async_generate(
            input_ids=asked.token_ids,
            sampling_params=sampling,
            stream=True,
            **_bootstrap(asked),
        )
        async for result in results:
            output: dict[str, Any] = {"token_ids": sent.new(result["output_ids"])}
            if reason := result["meta_info"]["finish_reason"]:
                output["finish_reason"] = reason["type"]
            yield output


def _bootstrap(asked: PreprocessedRequest) -> dict[str, Any]:
    """Where a prefill worker has put the KV cache of the prompt, if one has."""
    names = ("bootstrap_host", "bootstrap_port", "bootstrap_room")
    given = asked.disaggregated_params
    return {name: given[name] for name in names if name in given}


async def worker(runtime: DistributedRuntime, config: Config) -> None:
    """Serves until the process is asked to end."""
    engine = SGLangDecodeWorker(config.server_args)
    await serve(runtime, Deployment(), engine, config.model_path, config.model_name)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    config = parse_sglang_args()
    asyncio.run(dynamo_worker(arguments=config.runtime)(worker)(config))
