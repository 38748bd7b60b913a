"""What a worker tells of its engine: KV events and load.

Engines publish KV events over ZMQ; the extension hears them, gives the blocks our names and tells
routers. Load goes through the extension's metrics publisher.
"""

import logging
from typing import Any

from dynamo import _core

from dynamo.engine.base import Engine, Load

logger = logging.getLogger(__name__)


class NoEvents(RuntimeError):
    """KV events were asked for, and the engine publishes none."""


class News:
    """The publishers of one endpoint."""

    def __init__(self, endpoint: Any, block_size: int | None) -> None:
        self._endpoint = endpoint
        self._block_size = block_size
        self._events: dict[int, Any] = {}
        self._load: Any = None

    def pass_on(self, engine: Engine, required: bool) -> None:
        """Begins to pass on the engine's KV events. To be called before the endpoint is served.

        Args:
            required: somebody has asked for it.

        Raises:
            NoEvents: there are none, though they are required.
        """
        sources, ranks = engine.event_sources(), engine.event_ranks()
        if not sources and not ranks:
            if required:
                raise NoEvents(
                    f"--kv-events: {engine.name} publishes none as it was started; "
                    "turn on its prefix cache and its KV events"
                )
            return
        where = ", ".join(source.endpoint for source in sources) or f"{engine.name} itself"
        for source in sources:
            more: dict[str, Any] = {"zmq_endpoint": source.endpoint, "zmq_topic": source.topic}
            if source.replay_endpoint:
                more["zmq_replay_endpoint"] = source.replay_endpoint
            self._publish(source.rank, more)
        for rank in ranks:
            self._publish(rank, {})
        if ranks:
            engine.on_events(self._tell_events)
        logger.info("passes on KV events of %s", where)

    def _publish(self, rank: int, more: dict[str, Any]) -> None:
        self._events[rank] = _core.KvEventPublisher(
            self._endpoint, kv_block_size=self._block_size or 0, dp_rank=rank, **more
        )

    def _tell_events(self, rank: int, events: list[dict[str, Any]]) -> None:
        publisher = self._events.get(rank)
        if publisher is None:
            return
        try:
            publisher.publish_batch(events)
        except ValueError as error:
            logger.debug("a KV event was left out: %s", error)

    async def open_load(self) -> None:
        """Begins to tell the engine's load."""
        publisher = _core.WorkerMetricsPublisher()
        await publisher.create_endpoint(self._endpoint)
        self._load = publisher

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
        for publisher in self._events.values():
            publisher.shutdown()
        self._events.clear()
        self._load = None
