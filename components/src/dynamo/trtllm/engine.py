"""TensorRT-LLM's engine (`tensorrt_llm.LLM`) behind a worker."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from dynamo.engine import absent
from dynamo.engine.base import Engine, Limits, Load
from dynamo.engine.modes import Mode
from dynamo.engine.request import Request
from dynamo.trtllm import mapping

logger = logging.getLogger(__name__)

#: How long one question for events or statistics may wait for them, and the pause after one that
#: brought nothing: soon enough for the next prompt to find what this one has stored.
_ASK_SECONDS = 0.02
_PAUSE_SECONDS = 0.02

#: TensorRT-LLM's tokens per KV block, unless it was said.
_BLOCK_SIZE = 32


class TrtllmEngine(Engine):
    """Serves with TensorRT-LLM.

    Args:
        arguments: of `LLM`.
        kv_events: False if KV events are not to be passed on.
    """

    name = "trtllm"

    def __init__(
        self,
        arguments: Mapping[str, Any],
        mode: Mode = Mode.AGGREGATED,
        kv_events: bool | None = None,
    ) -> None:
        self.mode = mode
        self._arguments = dict(arguments)
        self._kv_events = kv_events
        self._trtllm = absent.require("tensorrt_llm", "trtllm")
        self._llm: Any = None
        #: Results that are streamed, by which they are aborted.
        self._running: dict[str, Any] = {}
        self._asking: list[asyncio.Future[None]] = []

    async def start(self) -> Limits:
        """Loads the model. In the main thread, as TensorRT-LLM is used everywhere."""
        self._llm = self._trtllm.LLM(**self._arguments)
        args = self._llm.args
        return Limits(
            context_length=args.max_seq_len,
            block_size=self._block_size(),
            total_kv_blocks=None,
            max_num_seqs=args.max_batch_size,
            max_num_batched_tokens=args.max_num_tokens,
            structured_output=(
                "from_start" if getattr(args, "guided_decoding_backend", None) else None
            ),
        )

    def _cache(self) -> Mapping[str, Any]:
        return self._arguments.get("kv_cache_config") or {}

    def _block_size(self) -> int:
        config = getattr(self._llm.args, "kv_cache_config", None)
        return getattr(config, "tokens_per_block", None) or _BLOCK_SIZE

    def stop(self) -> None:
        """Ends TensorRT-LLM's processes."""
        for asking in self._asking:
            asking.cancel()
        llm, self._llm = self._llm, None
        if llm is not None:
            llm.shutdown()

    async def generate(self, request: Request) -> AsyncIterator[dict[str, Any]]:
        """The outputs of one sequence."""
        if request.lora_name is not None:
            raise ValueError("trtllm serves no adapters")
        more: dict[str, Any] = {}
        if request.cache_salt is not None:
            more["cache_salt"] = request.cache_salt
        if request.trace_headers:
            more["trace_headers"] = dict(request.trace_headers)
        handed = mapping.disaggregated(request, self.mode)
        if handed is not None:
            params = absent.require("tensorrt_llm.disaggregated_params", "trtllm")
            more["disaggregated_params"] = params.DisaggregatedParams(**handed)
        outputs = mapping.Outputs(request, self.mode)
        result = self._llm.generate_async(
            request.token_ids,
            sampling_params=self._params(request),
            # A prefill worker's one token and its parameters come together.
            streaming=self.mode is not Mode.PREFILL,
            **more,
        )
        self._running[request.id] = result
        try:
            async for step in result:
                yield outputs.of(step)
        finally:
            self._running.pop(request.id, None)

    def _params(self, request: Request) -> Any:
        params = mapping.sampling_params(request, self.mode)
        if request.structured is not None and self.mode is not Mode.PREFILL:
            guided = absent.require("tensorrt_llm.llmapi", "trtllm").GuidedDecodingParams
            params["guided_decoding"] = guided(**mapping.guided_params(request.structured))
        return self._trtllm.SamplingParams(**params)

    async def abort(self, request_id: str) -> None:
        """Frees the sequence before the next step."""
        result = self._running.get(request_id)
        if result is not None:
            result.abort()

    def failure(self) -> str | None:
        """Whether its executor has met a fatal error."""
        executor = getattr(self._llm, "_executor", None)
        error = getattr(executor, "_fatal_error", None)
        return str(error) if error else None

    def event_ranks(self) -> list[int]:
        """With attention data parallelism each GPU has a cache of its own."""
        cache = self._cache()
        wanted = cache.get("event_buffer_max_size") and cache.get("enable_block_reuse", True)
        if self._kv_events is False or not wanted:
            return []
        args = self._llm.args
        has_ranks = getattr(args, "enable_attention_dp", False)
        return list(range(args.tensor_parallel_size if has_ranks else 1))

    def on_events(self, tell: Callable[[int, list[dict[str, Any]]], None]) -> None:
        """TensorRT-LLM keeps events until it is asked for them."""
        events = mapping.Events(self._block_size())

        def told(event: Mapping[str, Any]) -> None:
            rank, publish = events.of(event)
            if publish:
                tell(rank, publish)

        self._ask(self._llm.get_kv_cache_events_async, told)

    def on_load(self, tell: Callable[[Load], None]) -> None:
        """Likewise with its statistics."""

        def told(stats: Mapping[str, Any]) -> None:
            used = mapping.used_blocks(stats)
            if used is not None:
                tell(Load(used[0], active_blocks=used[1], used_blocks=used[1]))

        if self._arguments.get("enable_iter_perf_stats"):
            self._ask(self._llm.get_stats_async, told)

    def _ask(self, source: Callable[..., Any], told: Callable[[Mapping[str, Any]], None]) -> None:
        self._asking.append(asyncio.ensure_future(_follow(source, told)))


async def _follow(source: Callable[..., Any], told: Callable[[Mapping[str, Any]], None]) -> None:
    while True:
        try:
            async for item in source(timeout=_ASK_SECONDS):
                told(item)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            logger.warning("trtllm tells nothing any more: %s: %s", type(error).__name__, error)
            return
        await asyncio.sleep(_PAUSE_SECONDS)
