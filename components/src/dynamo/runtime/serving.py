"""From a handler to the items of its answers.

Each request is a task of the event loop that runs `drive`: it calls the handler and puts what that
yields into a sink, which is the extension's. However the handler ends, the sink hears of it once.
"""

import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

#: Parameters that a handler may have: the request, and its context.
_MOST_PARAMETERS = 2


def drive_of(handler: Callable[..., Any]) -> Callable[..., Awaitable[None]]:
    """The coroutine function that serves a request with `handler`."""
    if not callable(handler):
        raise TypeError(
            f"a handler needs to be an async generator function, not {type(handler).__name__}"
        )
    return partial(_drive, handler, _takes_context(handler))


def _takes_context(handler: Callable[..., Any]) -> bool:
    parameters = inspect.signature(handler).parameters.values()
    if any(it.kind is inspect.Parameter.VAR_POSITIONAL for it in parameters):
        return True
    if any(it.name == "context" for it in parameters):
        return True
    positional = [
        it
        for it in parameters
        if it.kind
        in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    ]
    required = [it for it in positional if it.default is inspect.Parameter.empty]
    if not positional or len(required) > _MOST_PARAMETERS:
        raise TypeError(
            "a handler takes a request, or a request and its context: "
            f"handler(request) or handler(request, context), not {handler}"
        )
    return len(required) == _MOST_PARAMETERS


async def _drive(
    handler: Callable[..., Any],
    takes_context: bool,
    request: Any,
    context: Any,
    sink: Any,
) -> None:
    answer = None
    try:
        answer = handler(request, context) if takes_context else handler(request)
        if inspect.isawaitable(answer):
            answer = await answer
        if hasattr(answer, "__aiter__"):
            async for item in answer:
                if sink.send(item):
                    await sink.room()
        else:
            sink.send(answer)
    except BaseException as error:
        sink.fail(error)
        await _close(answer)
        if not isinstance(error, Exception):
            # Cancellation, and what ends the process, are not only about this request.
            raise
    else:
        sink.end()


async def _close(answer: Any) -> None:
    """Ends a generator that was left in the middle, so that its `finally` runs now."""
    close = getattr(answer, "aclose", None)
    if close is not None:
        await close()
