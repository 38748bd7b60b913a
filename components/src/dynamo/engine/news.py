"""What a worker tells of its engine: KV events and load.

Engines publish KV events over ZMQ; the extension hears them, gives the blocks our names and tells
routers. Load goes through the extension's metrics publisher.
"""

import logging
from collections.abc import Sequence
from typing import Any

from dynamo import _core

from dynamo.engine import capability
from dynamo.engine.base import EventSource, Load
from dynamo.engine.capability import NotBuilt

logger = logging.getLogger(__name__)


class News:
    """The publishers of one endpoint."""

    def __init__(self, endpoint: Any, block_size: int | None) -> None:
        self._endpoint = endpoint
        self._block_size = block_size
        self._events: list[Any] = []
        self._load: Any = None

    def pass_on(self, sources: Sequence[EventSource], required: bool) -> None:
        """Begins to pass on the engine's KV events.

        Args:
            required: somebody has asked for it; otherwise a build that cannot is only said.
        """
        if not sources:
            return
        where = ", ".join(source.endpoint for source in sources)
        if not capability.has("KvEventPublisher"):
            message = (
                f"the engine publishes KV events at {where}, but this build of dynamo._core has "
                "no KvEventPublisher to pass them on"
            )
            if required:
                raise NotBuilt(f"{message}; leave --kv-events out, or update dynamo")
            logger.warning("%s: prompts are not routed by what is cached here", message)
            return
        for source in sources:
            more: dict[str, Any] = {}
            if source.replay_endpoint and takes_replay():
                more["zmq_replay_endpoint"] = source.replay_endpoint
            publisher = _core.KvEventPublisher(
                self._endpoint,
                kv_block_size=self._block_size or 0,
                dp_rank=source.rank,
                zmq_endpoint=source.endpoint,
                zmq_topic=source.topic,
                **more,
            )
            self._events.append(publisher)
        logger.info("passes on KV events of %s", where)

    async def open_load(self) -> bool:
        """Begins to tell the engine's load. Whether this build can."""
        if not capability.has("WorkerMetricsPublisher"):
            logger.info("this build of dynamo._core tells requests in flight as load, not KV blocks")
            return False
        publisher = _core.WorkerMetricsPublisher()
        await publisher.create_endpoint(self._endpoint)
        self._load = publisher
        return True

    def tell(self, load: Load) -> None:
        """Tells the load of a rank."""
        if self._load is not None:
            self._load.publish(
                dp_rank=load.rank,
                active_decode_blocks=load.active_blocks,
                kv_used_blocks=load.used_blocks,
            )

    def close(self) -> None:
        """Passes nothing on any more."""
        for publisher in self._events:
            publisher.shutdown()
        self._events.clear()
        self._load = None


def takes_replay() -> bool:
    """Whether the extension asks engines for events that it has missed."""
    publisher = getattr(_core, "KvEventPublisher", None)
    return publisher is not None and capability.takes(publisher, "zmq_replay_endpoint")
