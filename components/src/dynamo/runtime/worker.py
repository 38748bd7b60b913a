"""Decorators of workers: `@dynamo_worker()` and `@dynamo_endpoint(Request, Response)`.

Neither hides anything: the first opens a runtime and closes it, the second checks types.
"""

import asyncio
import functools
import inspect
import logging
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

from dynamo._core import DistributedRuntime

logger = logging.getLogger(__name__)

#: How long a worker that has drained may take to put itself in order: engines end within a few.
_LAST_WORDS_SECONDS = 30.0

#: Signals that ask a worker to end.
_ENDING = (signal.SIGTERM, signal.SIGINT)


def dynamo_worker(
    enable_nats: bool | None = None,
    *,
    static: bool = False,
    arguments: list[str] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Makes `async def worker(runtime, ...)` a coroutine function of the rest of its arguments.

    The runtime is opened before and shut down after. SIGTERM and SIGINT drain it: nothing new is
    taken, what runs may finish within `--drain-timeout`, and the rest moves to other workers. Then
    the worker's own coroutine is cancelled, if it has not ended by then.

    Args:
        enable_nats: accepted and of no effect: planes say by themselves what they need.
        static: accepted and of no effect: discovery needs nothing to be installed.
        arguments: options of the runtime as on a command line, such as
            `["--discovery-backend", "etcd"]`; they go before those of the environment.
    """
    del static

    def decorate(worker: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(worker)
        async def run(*args: Any, **kwargs: Any) -> Any:
            loop = asyncio.get_running_loop()
            runtime = DistributedRuntime(loop, enable_nats=enable_nats, arguments=arguments)
            task = asyncio.ensure_future(worker(runtime, *args, **kwargs))
            ending = asyncio.Event()
            handled = [number for number in _ENDING if _listen(loop, number, ending)]
            waiting = asyncio.ensure_future(ending.wait())
            try:
                await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
                if not task.done():
                    await runtime.drain()
                    task.cancel()
                    await asyncio.wait({task}, timeout=_LAST_WORDS_SECONDS)
                    if not task.done():
                        logger.warning("the worker did not end within %s s", _LAST_WORDS_SECONDS)
                        return None
                    return None if task.cancelled() else task.result()
                return task.result()
            finally:
                waiting.cancel()
                for number in handled:
                    loop.remove_signal_handler(number)
                if not task.done():
                    task.cancel()
                runtime.shutdown()

        return run

    return decorate


def _listen(loop: asyncio.AbstractEventLoop, number: int, ending: asyncio.Event) -> bool:
    try:
        loop.add_signal_handler(number, ending.set)
    except (NotImplementedError, RuntimeError, ValueError):
        # Not the main thread: whoever owns the process ends it.
        return False
    return True


def dynamo_endpoint(
    request_model: Any, response_model: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Makes a handler of pydantic models one of dictionaries.

    Requests are validated against `request_model`; one that does not fit ends with
    `invalid_request` and says where. Items that are no instances of `response_model` are validated
    against it.

    Args:
        request_model: a pydantic model.
        response_model: a pydantic model, or any type for items that go as they are.
    """

    def decorate(handler: Callable[..., Any]) -> Callable[..., Any]:
        parameters = list(inspect.signature(handler).parameters)
        is_method = parameters[:1] == ["self"]
        takes_context = len(parameters) - is_method > 1

        async def answer(own: tuple[Any, ...], request: Any, context: Any) -> AsyncIterator[Any]:
            parsed = _parse(request_model, request)
            arguments = (*own, parsed, context) if takes_context else (*own, parsed)
            async for item in handler(*arguments):
                yield _dump(response_model, item)

        if is_method:

            async def method(self: Any, request: Any, context: Any) -> AsyncIterator[Any]:
                async for item in answer((self,), request, context):
                    yield item

            return functools.wraps(handler)(_with_signature(method))

        async def function(request: Any, context: Any) -> AsyncIterator[Any]:
            async for item in answer((), request, context):
                yield item

        return functools.wraps(handler)(_with_signature(function))

    return decorate


def _with_signature(function: Callable[..., Any]) -> Callable[..., Any]:
    """Keeps the function's own parameters, whatever it is made to look like."""
    function.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return function


def _parse(model: Any, request: Any) -> Any:
    from dynamo._core import InvalidArgument

    try:
        if isinstance(request, str | bytes):
            return model.model_validate_json(request)
        return model.model_validate(request)
    except ValueError as error:
        raise InvalidArgument(f"the request does not fit {model.__name__}: {error}") from error


def _dump(model: Any, item: Any) -> Any:
    if hasattr(item, "model_dump"):
        return item.model_dump()
    if hasattr(model, "model_validate"):
        return model.model_validate(item).model_dump()
    return item
