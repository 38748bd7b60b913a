"""One request at an engine: read, generate, and abort when nobody waits any more."""

import asyncio
import functools
import itertools
import logging
from collections.abc import AsyncIterator
from typing import Any

from dynamo._core import EngineShutdown, InvalidArgument, WorkerUnavailable

from dynamo.engine.base import Engine
from dynamo.engine.request import Request

logger = logging.getLogger(__name__)


class Handler:
    """Serves an engine's endpoint."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._numbers = itertools.count()
        #: Aborts under way; kept so that none is collected before its end.
        self._aborts: set[asyncio.Future[None]] = set()

    async def generate(
        self, request: dict[str, Any], context: Any
    ) -> AsyncIterator[dict[str, Any]]:
        """The handler of the `generate` endpoint.

        An id is made for each call, as attempts at a request and its choices share the client's. Its
        number stands first and has a fixed width: engines abort by the beginning of an id.
        """
        request_id = f"{next(self._numbers):08x}-{context.id()}"
        try:
            asked = Request.read(request, request_id, context.trace_headers())
        except (TypeError, ValueError) as error:
            raise InvalidArgument(str(error)) from error
        unwanted = context.async_killed_or_stopped()
        unwanted.add_done_callback(functools.partial(self._unwanted, request_id))
        ended = False
        try:
            async for item in self._engine.generate(asked):
                ended = "finish_reason" in item
                yield item
        except self._engine.deaths as error:
            ended = True
            raise EngineShutdown(f"{self._engine.name} has died: {error}") from error
        except self._engine.full as error:
            ended = True
            raise WorkerUnavailable(
                f"{self._engine.name} takes no more requests: {error}"
            ) from error
        except self._engine.refusals as error:
            ended = True
            raise InvalidArgument(f"{self._engine.name}: {error}") from error
        finally:
            unwanted.cancel()
            if not ended:
                # Cancelled in the middle, or failed: the engine may not know.
                self._abort(request_id)

    def _unwanted(self, request_id: str, told: "asyncio.Future[bool]") -> None:
        if not told.cancelled():
            self._abort(request_id)

    def _abort(self, request_id: str) -> None:
        logger.debug("abort %s", request_id)
        aborting = asyncio.ensure_future(self._engine.abort(request_id))
        self._aborts.add(aborting)
        aborting.add_done_callback(self._aborted)

    def _aborted(self, aborting: "asyncio.Future[None]") -> None:
        self._aborts.discard(aborting)
        if not aborting.cancelled() and aborting.exception() is not None:
            logger.warning("%s could not abort: %s", self._engine.name, aborting.exception())
