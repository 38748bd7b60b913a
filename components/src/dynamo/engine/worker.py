"""A worker's life: its engine starts, its model is registered, requests are served, it drains.

The runtime and the endpoint are the component's own, in its `main`; what happens between them is
the same for all engines. Start-up that fails, fails: whoever waits for the worker hears why.
"""

import asyncio
import contextlib
import logging
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from dynamo import _core
from dynamo._core import ModelInput, ModelRuntimeConfig, ModelType, WorkerType
from dynamo.engine.adapters import Adapters
from dynamo.engine.base import Adapter, Engine, Limits
from dynamo.engine.handler import Handler
from dynamo.engine.modes import Mode
from dynamo.engine.news import News
from dynamo.engine.options import Options

logger = logging.getLogger(__name__)

#: How often an engine is asked whether it lives. Requests that it loses notice by themselves; this
#: is for a worker that has none, which would go on to be chosen.
_WATCH_SECONDS = 1.0

#: Longest that transfers of KV state may hold up the end of a worker: a prompt's state crosses a
#: network in a second or two, and service managers kill after 30.
_TRANSFER_SECONDS = 10.0

#: What workers are to those that send them requests.
_WORKER_TYPES = {
    Mode.AGGREGATED: WorkerType.Aggregated,
    Mode.PREFILL: WorkerType.Prefill,
    Mode.DECODE: WorkerType.Decode,
}


class EngineDied(RuntimeError):
    """The engine has died under its worker."""


async def serve(component: Any, endpoint: Any, engine: Engine, options: Options) -> None:
    """Serves an engine at an endpoint until the process is asked to end.

    Args:
        component: where the endpoints of adapters are, beside the engine's own.
        endpoint: where requests come.

    Raises:
        EngineDied: the engine has died. What it had moves to other workers.
        NoEvents: KV events were asked for, and the engine publishes none.
    """
    with _stopping(engine):
        limits = await engine.start()
        news = News(endpoint, limits.block_size)
        try:
            news.pass_on(engine, required=options.kv_events is True)
            await news.open_load()
            engine.on_load(news.tell)
            await _register(endpoint, engine, options, limits)
            serving = [_serve_requests(endpoint, engine, options)]
            if engine.adapters_limit() > 0:
                serving += _serve_adapters(component, endpoint, engine, options, limits)
            logger.info("serves %s at %s", options.model_path, endpoint.path)
            await _until_over(serving, engine)
            await _finish_transfers(engine)
        finally:
            news.close()


@contextlib.contextmanager
def _stopping(engine: Engine) -> Iterator[None]:
    """Ends the engine in the end. Without awaiting: a task that is cancelled must still do it."""
    try:
        yield
    finally:
        logger.info("ends %s", engine.name)
        engine.stop()


def runtime_config(limits: Limits) -> ModelRuntimeConfig:
    """What a model's card says of its worker."""
    config = ModelRuntimeConfig()
    config.context_length = limits.context_length
    config.total_kv_blocks = limits.total_kv_blocks
    config.max_num_seqs = limits.max_num_seqs
    config.max_num_batched_tokens = limits.max_num_batched_tokens
    config.structured_output = limits.structured_output
    if limits.bootstrap is not None:
        host, port = limits.bootstrap
        config.set_disaggregated_endpoint(host, port)
    return config


async def _register(endpoint: Any, engine: Engine, options: Options, limits: Limits) -> None:
    await _core.register_model(
        ModelInput.Tokens,
        _model_type(options.mode),
        endpoint,
        options.model_path,
        options.model_name,
        kv_cache_block_size=limits.block_size,
        runtime_config=runtime_config(limits),
        custom_template_path=options.custom_jinja_template,
        worker_type=_WORKER_TYPES[options.mode],
        needs=_needs(engine, options.mode),
    )


def _model_type(mode: Mode) -> ModelType:
    return ModelType.Prefill if mode is Mode.PREFILL else ModelType.Chat | ModelType.Completions


def _needs(engine: Engine, mode: Mode) -> list[list[str]]:
    """Whom a worker needs, without whom it serves nothing."""
    return [["prefill"]] if mode is Mode.DECODE and not engine.decodes_alone else []


def _serve_requests(endpoint: Any, engine: Engine, options: Options) -> "asyncio.Future[None]":
    payload = options.health_check_payload or engine.health_check_payload()
    handler = Handler(engine)
    serving: asyncio.Future[None] = asyncio.ensure_future(
        endpoint.serve_endpoint(handler.generate, health_check_payload=payload)
    )
    return serving


def _serve_adapters(
    component: Any, endpoint: Any, engine: Engine, options: Options, limits: Limits
) -> "list[asyncio.Future[None]]":
    async def announce(adapter: Adapter) -> None:
        await _core.register_model(
            ModelInput.Tokens,
            _model_type(options.mode),
            endpoint,
            options.model_path,
            kv_cache_block_size=limits.block_size,
            runtime_config=runtime_config(limits),
            lora_name=adapter.name,
            base_model_path=options.model_path,
            max_gpu_lora_count=engine.adapters_limit(),
            worker_type=_WORKER_TYPES[options.mode],
            needs=_needs(engine, options.mode),
        )

    async def withdraw(adapter: Adapter) -> None:
        await _core.unregister_model(endpoint, lora_name=adapter.name)

    adapters = Adapters(engine, announce, withdraw)
    served = {
        "load_lora": adapters.load,
        "unload_lora": adapters.unload,
        "list_loras": adapters.list,
    }
    return [
        asyncio.ensure_future(component.endpoint(name).serve_endpoint(handler))
        for name, handler in served.items()
    ]


async def _until_over(serving: "list[asyncio.Future[None]]", engine: Engine) -> None:
    """Until everything is served no more, or the engine has died."""
    watching: asyncio.Future[Any] = asyncio.ensure_future(_watch(engine))
    over: asyncio.Future[Any] = asyncio.gather(*serving)
    try:
        await asyncio.wait({over, watching}, return_when=asyncio.FIRST_COMPLETED)
        if over.done():
            over.result()
            return
        raise EngineDied(
            f"{engine.name} has died: {watching.result()}; its last log lines say why, "
            "and the worker needs to be started anew"
        )
    finally:
        watching.cancel()
        over.cancel()


async def _finish_transfers(engine: Engine) -> None:
    """Lets the engine hand over what decode workers still fetch. Whoever drains the process cancels
    this task as soon as no request is left, which transfers outlive."""
    transfers = asyncio.ensure_future(engine.drained())
    try:
        await asyncio.shield(transfers)
    except asyncio.CancelledError:
        await asyncio.wait({transfers}, timeout=_TRANSFER_SECONDS)
        raise


async def _watch(engine: Engine) -> str:
    while True:
        failure = engine.failure()
        if failure is not None:
            return failure
        await asyncio.sleep(_WATCH_SECONDS)


def describe(options: Options, words: Sequence[str]) -> str:
    """A line about what is started, with every word that the engine gets."""
    name = options.model_name or options.model_path
    return f"{options.mode.value} worker of {name}; the engine's arguments: {shlex.join(words)}"
