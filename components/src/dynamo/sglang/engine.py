"""SGLang's engine (`sgl.Engine`) behind a worker."""

import asyncio
import functools
import inspect
import json
import logging
import random
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from dynamo.engine import absent
from dynamo.engine.base import Adapter, Engine, EventSource, Limits, Load
from dynamo.engine.endpoints import reachable
from dynamo.engine.modes import Mode
from dynamo.engine.request import Request
from dynamo.sglang import mapping

logger = logging.getLogger(__name__)

#: Rooms in which prefill and decode worker meet are signed 64-bit numbers.
_MOST_ROOM = 2**63 - 1


class SglangEngine(Engine):
    """Serves with SGLang.

    Args:
        server_args: SGLang's `ServerArgs`.
        kv_events: False if KV events are not to be passed on, though SGLang publishes them.
    """

    name = "sglang"

    def __init__(
        self, server_args: Any, mode: Mode = Mode.AGGREGATED, kv_events: bool | None = None
    ) -> None:
        self.mode = mode
        self._args = server_args
        self._kv_events = kv_events
        self._sgl = absent.require("sglang", "sglang")
        self._engine: Any = None
        self._takes: Mapping[str, Any] = {}
        self._bootstrap: tuple[str, int] | None = None
        #: Prompts whose KV state a decode worker still fetches.
        self._transfers: set[asyncio.Future[None]] = set()
        self._metrics: asyncio.Future[None] | None = None

    async def start(self) -> Limits:
        """Loads the model. In the main thread, where SGLang sets up signals of its own."""
        handlers = _SignalHandlers()
        self._engine = self._sgl.Engine(server_args=self._args)
        handlers.restore()
        manager = self._engine.tokenizer_manager
        own = getattr(manager, "signal_handler_class", None)
        if own is not None:
            manager.signal_handler_class = functools.partial(_DrainFirst, own)
        self._takes = inspect.signature(self._engine.async_generate).parameters
        if self.mode is Mode.PREFILL:
            self._bootstrap = self._bootstrap_address()
        return self._limits()

    def _limits(self) -> Limits:
        info = self._scheduler_info()
        page = self._args.page_size or 1
        tokens = info.get("max_total_num_tokens")
        ranks = getattr(self._args, "dp_size", 1) or 1
        return Limits(
            context_length=self._args.context_length or info.get("max_req_input_len"),
            block_size=page,
            total_kv_blocks=tokens // page * ranks if tokens else None,
            max_num_seqs=info.get("max_running_requests")
            or getattr(self._args, "max_running_requests", None),
            max_num_batched_tokens=_positive(
                getattr(self._args, "max_prefill_tokens", None),
                getattr(self._args, "chunked_prefill_size", None),
            ),
            structured_output=self._structured_output(),
            bootstrap=self._bootstrap,
        )

    def _structured_output(self) -> str | None:
        """Grammars are made of the tokenizer, from the first token that this worker generates."""
        backend = getattr(self._args, "grammar_backend", None)
        lacks = getattr(self._args, "skip_tokenizer_init", False) or backend == "none"
        return None if lacks else "from_start"

    def _scheduler_info(self) -> Mapping[str, Any]:
        result = getattr(self._engine, "_scheduler_init_result", None)
        infos = getattr(result, "scheduler_infos", None)
        return (infos[0] if infos else getattr(self._engine, "scheduler_info", None)) or {}

    def _bootstrap_address(self) -> tuple[str, int]:
        port = getattr(self._args, "disaggregation_bootstrap_port", None)
        if not port:
            raise ValueError("a prefill worker needs --disaggregation-bootstrap-port")
        return host_of(self._args), int(port)

    def stop(self) -> None:
        """Ends SGLang's processes."""
        if self._metrics is not None:
            self._metrics.cancel()
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.shutdown()

    async def generate(self, request: Request) -> AsyncIterator[dict[str, Any]]:
        """The outputs of one sequence."""
        meeting = self._meeting(request)
        incremental = bool(
            getattr(self._args, "incremental_streaming_output", False)
            or getattr(self._args, "stream_output", False)
        )
        results = await self._engine.async_generate(
            **mapping.arguments(request), **self._of_version(request), **(meeting or {})
        )
        if self.mode is Mode.PREFILL:
            async for item in self._prefilled(request, meeting, results):
                yield item
            return
        outputs = mapping.Outputs(request, incremental)
        async for result in results:
            yield outputs.of(result)

    def _meeting(self, request: Request) -> dict[str, Any] | None:
        if self.mode is Mode.AGGREGATED:
            return None
        meeting = mapping.meeting(request)
        if meeting is not None:
            return meeting
        if self.mode is Mode.DECODE:
            raise RuntimeError(
                "the request came to a decode worker without a prefill worker; start one, "
                "or start this worker without --disaggregation-mode"
            )
        host, port = self._bootstrap or self._bootstrap_address()
        room = random.randint(0, _MOST_ROOM)
        return {"bootstrap_host": host, "bootstrap_port": port, "bootstrap_room": room}

    async def _prefilled(
        self, request: Request, meeting: Any, results: Any
    ) -> AsyncIterator[dict[str, Any]]:
        """Gives the place where the decode worker finds the prompt's state. SGLang's own stream
        ends when the state has been fetched: whoever named the place waits for that here; for
        others it goes on behind the answer, as they ask a decode worker only after its end."""
        if request.bootstrap is not None:
            yield {"token_ids": [], "disaggregated_params": meeting}
            await _consume(results)
        else:
            fetching = asyncio.ensure_future(_consume(results))
            self._transfers.add(fetching)
            fetching.add_done_callback(self._fetched)
            yield {"token_ids": [], "disaggregated_params": meeting}
        yield {"token_ids": [], "finish_reason": "stop"}

    def _fetched(self, fetching: "asyncio.Future[None]") -> None:
        self._transfers.discard(fetching)
        if not fetching.cancelled() and fetching.exception() is not None:
            logger.warning("a prompt's state was not fetched: %s", fetching.exception())

    async def drained(self) -> None:
        """Until decode workers have fetched what they were promised."""
        if self._transfers:
            await asyncio.wait(self._transfers)

    def _of_version(self, request: Request) -> dict[str, Any]:
        """Arguments that not every version takes. What matters to the answer is refused there."""
        more: dict[str, Any] = {}
        ranks = getattr(self._args, "dp_size", 1) or 1
        if request.dp_rank is not None and ranks > 1:
            name = "routed_dp_rank" if "routed_dp_rank" in self._takes else "data_parallel_rank"
            more[name] = request.dp_rank
        if request.priority and "priority" in self._takes:
            more["priority"] = request.priority
        if request.trace_headers and "external_trace_header" in self._takes:
            more["external_trace_header"] = dict(request.trace_headers)
        if request.cache_salt is not None:
            if "cache_salt" not in self._takes:
                raise ValueError(
                    "this version of sglang keeps no caches apart; leave cache_salt out"
                )
            more["cache_salt"] = request.cache_salt
        return more

    async def abort(self, request_id: str) -> None:
        """Frees the sequence before the next step."""
        if self._engine is not None:
            self._engine.tokenizer_manager.abort_request(rid=request_id, abort_all=False)

    def failure(self) -> str | None:
        """Whether one of its processes has died, where this version watches them."""
        manager = getattr(self._engine, "tokenizer_manager", None)
        watchdog = getattr(manager, "_subprocess_watchdog", None)
        for process in getattr(watchdog, "_processes", None) or ():
            if process.exitcode is not None:
                return f"{process.name} ended with {process.exitcode}"
        return None

    def event_sources(self) -> list[EventSource]:
        """One for each data-parallel rank: each takes the next port."""
        text = getattr(self._args, "kv_events_config", None)
        if self._kv_events is False or not text:
            return []
        config = json.loads(text)
        if config.get("publisher", "zmq") != "zmq":
            return []
        return [
            EventSource(
                endpoint=reachable(config.get("endpoint", "tcp://*:5557"), rank),
                topic=config.get("topic", ""),
                rank=rank,
            )
            for rank in range(getattr(self._args, "dp_size", 1) or 1)
        ]

    def on_load(self, tell: Callable[[Load], None]) -> None:
        """SGLang's schedulers push figures to a socket that their parent may listen on."""
        name = getattr(getattr(self._engine, "port_args", None), "metrics_ipc_name", None)
        if name and (getattr(self._args, "node_rank", 0) or 0) == 0:
            page = self._args.page_size or 1
            self._metrics = asyncio.ensure_future(_follow(name, page, tell))

    def adapters_limit(self) -> int:
        """Adapters that SGLang keeps at hand."""
        if not getattr(self._args, "enable_lora", False):
            return 0
        return (
            getattr(self._args, "max_loaded_loras", None)
            or getattr(self._args, "max_loras_per_batch", None)
            or 1
        )

    async def load_adapter(self, adapter: Adapter) -> None:
        """Loads a LoRA adapter."""
        io_struct = absent.require("sglang.srt.managers.io_struct", "sglang")
        asked = io_struct.LoadLoRAAdapterReqInput(lora_name=adapter.name, lora_path=adapter.path)
        _check(await self._engine.tokenizer_manager.load_lora_adapter(asked, None))

    async def unload_adapter(self, adapter: Adapter) -> None:
        """Forgets it."""
        io_struct = absent.require("sglang.srt.managers.io_struct", "sglang")
        asked = io_struct.UnloadLoRAAdapterReqInput(lora_name=adapter.name)
        _check(await self._engine.tokenizer_manager.unload_lora_adapter(asked, None))


class _DrainFirst:
    """In place of SGLang's own handlers of signals, which it sets with the first request: its own
    would end the process under those who still wait for answers. The worker listens for both signals
    that ask it to end, of which SGLang leaves one alone."""

    def __init__(self, own: Callable[[Any], Any], manager: Any) -> None:
        self.running_phase_sigquit_handler = own(manager).running_phase_sigquit_handler

    def sigterm_handler(self, *_: Any) -> None:
        """SIGTERM drains the worker."""
        signal.raise_signal(signal.SIGINT)


class _SignalHandlers:
    """The process's signal handlers: SIGTERM and SIGINT drain the worker, whatever SGLang sets."""

    def __init__(self) -> None:
        self._kept = {it: signal.getsignal(it) for it in (signal.SIGTERM, signal.SIGINT)}

    def restore(self) -> None:
        """Puts back what there was."""
        for number, handler in self._kept.items():
            if handler is not None:
                signal.signal(number, handler)


async def _consume(results: Any) -> None:
    async for result in results:
        ended = result["meta_info"].get("finish_reason") or {}
        if ended.get("type") in ("abort", "error"):
            raise RuntimeError(str(ended.get("message") or "sglang gave the prompt up"))


async def _follow(name: str, page: int, tell: Callable[[Load], None]) -> None:
    """Tells the figures that SGLang's schedulers push, which are Python objects of its own and count
    tokens where they say blocks."""
    zmq = absent.require("zmq", "sglang")
    asyncio_zmq = absent.require("zmq.asyncio", "sglang")
    io_struct = absent.require("sglang.srt.managers.io_struct", "sglang")
    # Later versions write them in a form of their own.
    receive = getattr(io_struct, "async_sock_recv", None)
    context = asyncio_zmq.Context()
    socket = context.socket(zmq.PULL)
    try:
        socket.bind(name)
        while True:
            figures = await (receive(socket) if receive else socket.recv_pyobj())
            active = int(getattr(figures, "kv_active_blocks", 0) or 0) // page
            tell(Load(int(figures.data_parallel_rank or 0), active, active))
    except asyncio.CancelledError:
        raise
    except Exception as error:
        logger.warning("sglang's figures are not told any more: %s", error)
    finally:
        socket.close(linger=0)
        context.term()


def _check(result: Any) -> None:
    if not result.success:
        raise ValueError(getattr(result, "error_message", None) or "sglang took it not")


def _positive(*values: int | None) -> int | None:
    return next((value for value in values if value is not None and value > 0), None)


def host_of(server_args: Any) -> str:
    """The address of this machine that decode workers reach."""
    addr = getattr(server_args, "dist_init_addr", None)
    if addr:
        return str(addr).rpartition(":")[0]
    network = absent.require("sglang.srt.utils", "sglang")
    find = getattr(network, "get_local_ip_auto", None) or network.get_ip
    return str(find())
