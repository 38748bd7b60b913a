"""What a component says of its engine, so that one worker serves them all.

An engine's component maps requests and outputs, starts and stops the engine and knows its limits.
Everything else - registration, drain, cancellation, events, adapters, exit codes - is the worker's
(`dynamo.engine.worker`).
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from dynamo.engine.modes import Mode
from dynamo.engine.request import Request

#: Tokens that a health check asks for: an engine that gives a first and no second is not well.
HEALTH_CHECK_TOKENS = 3


@dataclass(frozen=True)
class Limits:
    """What an engine that has started can hold; `None` where it does not say.

    Attributes:
        context_length: longest sequence, prompt and answer together, in tokens.
        block_size: tokens in a KV block.
        total_kv_blocks: KV blocks of all data-parallel ranks together.
        max_num_seqs: sequences that run at once, over all ranks.
        max_num_batched_tokens: tokens that one step of a rank computes.
        structured_output: None, "from_start" or "replayed", as `ModelRuntimeConfig` has it.
        bootstrap: host and port at which decode workers find this prefill worker.
    """

    context_length: int | None = None
    block_size: int | None = None
    total_kv_blocks: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    structured_output: str | None = None
    bootstrap: tuple[str, int] | None = None


@dataclass(frozen=True)
class Load:
    """What one data-parallel rank holds now.

    Attributes:
        active_blocks: KV blocks of sequences that run.
        used_blocks: those and cached ones, where the engine tells them apart; else the same.
    """

    rank: int
    active_blocks: int
    used_blocks: int


@dataclass(frozen=True)
class EventSource:
    """Where an engine publishes its KV events over ZMQ, one per data-parallel rank."""

    endpoint: str
    topic: str = ""
    rank: int = 0
    replay_endpoint: str | None = None


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter: the model name that clients ask for, its id within the engine, its folder."""

    name: str
    id: int
    path: str


class Engine(ABC):
    """An inference engine behind a worker."""

    #: The name of the engine and of its component's package.
    name: ClassVar[str]
    #: Exceptions that mean that a request makes no sense to it.
    refusals: tuple[type[Exception], ...] = (ValueError,)
    #: Exceptions that mean that it has no room for a request.
    full: tuple[type[Exception], ...] = ()
    #: Exceptions that mean that it will not answer any more.
    deaths: tuple[type[Exception], ...] = ()

    #: Whether a decode worker computes the prompts that no prefill worker had before.
    decodes_alone: ClassVar[bool] = False

    mode: Mode = Mode.AGGREGATED

    @abstractmethod
    async def start(self) -> Limits:
        """Loads the model and makes it ready. Raises what went wrong."""

    @abstractmethod
    def stop(self) -> None:
        """Ends the engine and all its processes, whatever it is at; also after `start` failed."""

    @abstractmethod
    def generate(self, request: Request) -> AsyncIterator[dict[str, Any]]:
        """The outputs of one sequence (`dynamo.engine.outputs`), the last with a finish reason."""

    @abstractmethod
    async def abort(self, request_id: str) -> None:
        """Nobody waits for the sequence any more: its place is free before the next step. Its
        outputs then end. One that is not known is none that runs."""

    def failure(self) -> str | None:
        """Why the engine will not answer any more, if it will not. Cheap: asked every second."""
        return None

    def health_check_payload(self) -> dict[str, Any]:
        """A small request that shows whether the engine works."""
        tokens = 1 if self.mode is Mode.PREFILL else HEALTH_CHECK_TOKENS
        return {
            "token_ids": [1],
            "stop_conditions": {"max_tokens": tokens, "ignore_eos": True},
            "sampling_options": {"temperature": 0.0},
        }

    def event_sources(self) -> list[EventSource]:
        """Where it publishes KV events. Asked after `start`."""
        return []

    def event_ranks(self) -> list[int]:
        """Data-parallel ranks whose KV events the engine gives to its parent instead."""
        return []

    def on_events(self, tell: Callable[[int, list[dict[str, Any]]], None]) -> None:
        """`tell(rank, events)` is to be called, in the event loop, with events as
        `KvEventPublisher.publish_batch` takes them."""
        del tell

    def on_load(self, tell: Callable[[Load], None]) -> None:
        """`tell` is to be called, in the event loop, when the load has changed."""
        del tell

    def adapters_limit(self) -> int:
        """Adapters that the engine can hold; 0 if it was not started for any."""
        return 0

    async def load_adapter(self, adapter: Adapter) -> None:
        """Loads a LoRA adapter. Raises ValueError where it does not fit."""
        raise ValueError(f"{self.name} loads no adapters while it runs")

    async def unload_adapter(self, adapter: Adapter) -> None:
        """Forgets it."""
        raise ValueError(f"{self.name} unloads no adapters while it runs")

    async def drained(self) -> None:
        """Resolves when nothing runs that no request waits for, such as a transfer of KV state."""
        return
