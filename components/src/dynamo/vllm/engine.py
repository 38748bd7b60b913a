"""vLLM's engine (`AsyncLLM`) behind a worker."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

from dynamo.engine import absent
from dynamo.engine.base import Adapter, Engine, EventSource, Limits, Load
from dynamo.engine.endpoints import reachable
from dynamo.engine.modes import Mode
from dynamo.engine.processes import end_children
from dynamo.engine.request import Request
from dynamo.vllm import mapping

logger = logging.getLogger(__name__)

#: How long vLLM's processes may take to end. Nothing runs any more when they are asked to.
_SHUTDOWN_SECONDS = 10.0


class VllmEngine(Engine):
    """Serves with vLLM.

    Args:
        engine_args: vLLM's `AsyncEngineArgs`.
        kv_events: False if KV events are not to be passed on, though vLLM publishes them.
    """

    name = "vllm"
    decodes_alone = True

    def __init__(
        self, engine_args: Any, mode: Mode = Mode.AGGREGATED, kv_events: bool | None = None
    ) -> None:
        self.mode = mode
        self._args = engine_args
        self._kv_events = kv_events
        self._vllm = absent.require("vllm", "vllm")
        self._engine: Any = None
        self._config: Any = None
        self._adapters: dict[str, Any] = {}
        self._tell: Callable[[Load], None] | None = None
        self._name_errors()

    def _name_errors(self) -> None:
        core = absent.require("vllm.v1.engine.exceptions", "vllm")
        exceptions = absent.require("vllm.exceptions", "vllm")
        self.deaths = (core.EngineDeadError,)
        refusal = getattr(exceptions, "VLLMClientError", ValueError)
        self.refusals = (ValueError, refusal)
        busy = getattr(exceptions, "QueueOverflowError", None)
        tokens = getattr(exceptions, "MaxQueuedTokensError", None)
        self.full = tuple(it for it in (busy, tokens) if it is not None)

    async def start(self) -> Limits:
        """Loads the model, in a thread: a signal that comes meanwhile is heard."""
        # A forked process would keep our sockets and locks: see `dynamo.engine.processes`.
        os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
        try:
            self._engine = await asyncio.to_thread(self._load)
        except asyncio.CancelledError:
            end_children()
            raise
        return self._limits()

    def _load(self) -> Any:
        async_llm = absent.require("vllm.v1.engine.async_llm", "vllm").AsyncLLM
        usage = absent.require("vllm.usage.usage_lib", "vllm").UsageContext.ENGINE_CONTEXT
        self._config = self._args.create_engine_config(usage)
        return async_llm.from_vllm_config(
            vllm_config=self._config,
            usage_context=usage,
            stat_loggers=[self._load_teller()],
            enable_log_requests=getattr(self._args, "enable_log_requests", False),
            disable_log_stats=self._args.disable_log_stats,
        )

    def _limits(self) -> Limits:
        config = self._config
        ranks = config.parallel_config.data_parallel_size
        blocks = config.cache_config.num_gpu_blocks
        scheduler = config.scheduler_config
        return Limits(
            context_length=config.model_config.max_model_len,
            block_size=config.cache_config.block_size,
            total_kv_blocks=blocks * ranks if blocks else None,
            max_num_seqs=scheduler.max_num_seqs * ranks,
            max_num_batched_tokens=scheduler.max_num_batched_tokens,
            # The grammar begins with the first token that this worker generates.
            structured_output="from_start",
        )

    def stop(self) -> None:
        """Ends vLLM's processes."""
        engine, self._engine = self._engine, None
        if engine is None:
            end_children()
            return
        try:
            engine.shutdown(timeout=_SHUTDOWN_SECONDS)
        except TypeError:
            # Earlier versions take no timeout.
            engine.shutdown()

    async def generate(self, request: Request) -> AsyncIterator[dict[str, Any]]:
        """The outputs of one sequence."""
        lora = self._adapters.get(request.lora_name) if request.lora_name else None
        if request.lora_name and lora is None:
            raise ValueError(f"adapter {request.lora_name} is not loaded here")
        is_first = True
        results = self._engine.generate(
            self._vllm.TokensPrompt(**mapping.prompt(request)),
            self._params(request),
            request.id,
            lora_request=lora,
            trace_headers=request.trace_headers or None,
            priority=mapping.priority(request),
            data_parallel_rank=request.dp_rank if self._has_ranks() else None,
        )
        async for result in results:
            yield mapping.to_output(result, request, is_first, self.mode)
            is_first = False

    def _params(self, request: Request) -> Any:
        vllm = absent.require("vllm.sampling_params", "vllm")
        params = mapping.sampling_params(request, self.mode)
        if request.structured is not None and self.mode is not Mode.PREFILL:
            config = getattr(self._config, "structured_outputs_config", None)
            forms = mapping.structured_params(
                request.structured, getattr(config, "disable_any_whitespace", False)
            )
            params["structured_outputs"] = vllm.StructuredOutputsParams(**forms)
        return vllm.SamplingParams(output_kind=vllm.RequestOutputKind.DELTA, **params)

    def _has_ranks(self) -> bool:
        return bool(self._config.parallel_config.data_parallel_size > 1)

    async def abort(self, request_id: str) -> None:
        """Frees the sequence before the next step."""
        if self._engine is not None:
            await self._engine.abort(request_id)

    def failure(self) -> str | None:
        """Whether its core process has died."""
        if self._engine is not None and self._engine.errored:
            return str(self._engine.dead_error)
        return None

    def event_sources(self) -> list[EventSource]:
        """One for each data-parallel rank on this machine: each takes the next port."""
        events = self._config.kv_events_config
        if self._kv_events is False or events is None or not events.enable_kv_cache_events:
            return []
        if not self._config.cache_config.enable_prefix_caching:
            logger.info("vllm caches no prefixes: there are no KV events to pass on")
            return []
        parallel = self._config.parallel_config
        first = parallel.data_parallel_rank
        ranks = range(first, first + parallel.data_parallel_size_local)
        return [
            EventSource(
                endpoint=reachable(events.endpoint, rank),
                topic=events.topic,
                rank=rank,
                replay_endpoint=(
                    reachable(events.replay_endpoint, rank) if events.replay_endpoint else None
                ),
            )
            for rank in ranks
        ]

    def on_load(self, tell: Callable[[Load], None]) -> None:
        """Told after each step in which something ran."""
        self._tell = tell

    def _load_teller(self) -> Any:
        """A class that vLLM makes a logger of for each rank."""
        base = absent.require("vllm.v1.metrics.loggers", "vllm").StatLoggerBase
        engine = self

        class LoadTeller(base):  # type: ignore[misc, valid-type]
            """Tells how full the KV cache of a rank is."""

            def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
                self._blocks = vllm_config.cache_config.num_gpu_blocks or 0
                self._rank = engine_index

            def record(
                self, scheduler_stats: Any, iteration_stats: Any, *more: Any, **named: Any
            ) -> None:
                if scheduler_stats is not None and engine._tell is not None:
                    # Of sequences that run: vLLM counts cached blocks that none needs as free.
                    used = round(scheduler_stats.kv_cache_usage * self._blocks)
                    engine._tell(Load(self._rank, active_blocks=used, used_blocks=used))

            def log_engine_initialized(self) -> None:
                pass

        return LoadTeller

    def adapters_limit(self) -> int:
        """Adapters that vLLM keeps at hand, on the GPU or beside it."""
        lora = self._config.lora_config if self._config is not None else None
        return (lora.max_cpu_loras or lora.max_loras) if lora is not None else 0

    async def load_adapter(self, adapter: Adapter) -> None:
        """Loads a LoRA adapter."""
        request = absent.require("vllm.lora.request", "vllm").LoRARequest(
            lora_name=adapter.name, lora_int_id=adapter.id, lora_path=adapter.path
        )
        await self._engine.add_lora(request)
        self._adapters[adapter.name] = request

    async def unload_adapter(self, adapter: Adapter) -> None:
        """Forgets it."""
        self._adapters.pop(adapter.name, None)
        await self._engine.remove_lora(adapter.id)
